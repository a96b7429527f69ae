"""Make the bundled base model: a byte-level BPE and a small Llama, trained on all generated domains but one.

    OMP_NUM_THREADS=1 python tools/pretrain_bundled.py [--out DIR] [--steps N]

The held-out domain (`splitcom.data.HELD_OUT_DOMAIN`) is what the demo fine-tunes on. With the same versions
of torch and tokenizers, on the same kind of processor, the result is the same to the bit: seeds and the
number of threads are fixed here. About 18 minutes on one core.
"""

import argparse
import json
import math
import random
from pathlib import Path

import torch
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from splitcom.data import HELD_OUT_DOMAIN, Batch, Row, Sample, batches, domains, encode, load_rows

OUT = Path(__file__).parent.parent / "src/splitcom/models/bundled"
SEED = 0
EVAL_SEED = 1  # pairs that training has not seen
CONTEXT = 256
VOCAB_SIZE = 1536
BATCH_SIZE = 16
PEAK_LR = 3e-3
WARMUP_STEPS = 100
PLAIN_TEXT_EVERY = (
    10  # one row in ten is trained on without its prompt, so that the model can also just write
)
TRAINED = [domain for domain in domains() if domain != HELD_OUT_DOMAIN]


def train_tokenizer(rows: list[Row]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on prompts and responses; a text starts with <s>."""
    bpe = Tokenizer(models.BPE())
    # Digits stay apart, so that the model copies numbers instead of knowing each one.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((f"{row.prompt} {row.response}" for row in rows), trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=CONTEXT,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def build_model() -> LlamaForCausalLM:
    """Return the untrained model: 2.5 million parameters, 5 MB as fp16."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


def generated(domain: str, count: int, seed: int) -> list[Row]:
    """Return rows of a domain with the prompt that the package uses by default."""
    return load_rows("generated", domain=domain, count=count, seed=seed)


def training_batches(samples: list[Sample], steps: int) -> list[Batch]:
    """Arrange the samples into `steps` batches of like lengths, in random order: this saves padding."""
    by_length = sorted(samples, key=lambda sample: sample.num_tokens)
    arranged = batches(by_length, BATCH_SIZE)[-steps:]
    random.Random(SEED).shuffle(arranged)
    return arranged


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Return the mean loss per response token, in nats."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())


def train(model: LlamaForCausalLM, arranged: list[Batch]) -> None:
    """Train in place with AdamW, warm-up and a cosine down to a fiftieth of the peak."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )

    def factor(step: int) -> float:
        cosine = 0.51 + 0.49 * math.cos(math.pi * step / len(arranged))
        return min(1.0, (step + 1) / WARMUP_STEPS) * cosine

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    for step, batch in enumerate(track(arranged, "pretraining")):
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 250 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def evaluate(model: LlamaForCausalLM, samples: list[Sample]) -> float:
    """Return the mean loss per response token over all samples, in nats."""
    total, count = 0.0, 0
    model.eval()
    for batch in batches(samples, BATCH_SIZE):
        num_targets = int((batch.labels[:, 1:] != -100).sum())
        total += loss_of(model, batch).item() * num_targets
        count += num_targets
    return total / count


def main() -> None:
    """Train, save and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--steps", type=int, default=4000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    per_domain = math.ceil(arguments.steps * BATCH_SIZE / len(TRAINED))
    rows = [row for domain in TRAINED for row in generated(domain, per_domain, SEED)]
    tokenizer = train_tokenizer(rows)
    plain = [Row(row.sample_id, "", row.response, row.columns) for row in rows[::PLAIN_TEXT_EVERY]]
    rows[::PLAIN_TEXT_EVERY] = plain
    encoded = encode(rows, tokenizer, CONTEXT)
    print(encoded.report, flush=True)
    model = build_model()
    train(model, training_batches(encoded.samples, arguments.steps))

    model.half().save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    model.float()  # measured as it ships: after rounding to fp16
    losses = {
        domain: evaluate(model, encode(generated(domain, 200, EVAL_SEED), tokenizer, CONTEXT).samples)
        for domain in domains()
    }
    print(json.dumps({domain: round(loss, 3) for domain, loss in losses.items()}, indent=2))


if __name__ == "__main__":
    main()
