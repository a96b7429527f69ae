"""Make the bundled base model: a byte-level BPE and a small Llama, trained on all generated domains but one.

    OMP_NUM_THREADS=1 python tools/pretrain_bundled.py [--out DIR] [--steps N]

The held-out domain (`splitcom.data.HELD_OUT_DOMAIN`) is what the demo fine-tunes on. With the same versions
of torch and tokenizers, on the same kind of processor, the result is the same to the bit: seeds and the
number of threads are fixed here. About 16 minutes on one core.
"""

import argparse
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from splitcom.data import HELD_OUT_DOMAIN, Batch, Row, Sample, batches, domains, encode, read_rows
from splitcom.data.generate import Attribute, Domain, draw_pair, load_domain

OUT = Path(__file__).parent.parent / "src/splitcom/models/bundled"
SEED = 0
EVAL_SEED = 1  # pairs that training has not seen
CONTEXT = 256
VOCAB_SIZE = 1536
BATCH_SIZE = 16
PEAK_LR = 3e-3
WARMUP_STEPS = 100
LABEL_SMOOTHING = 0.05  # else the model is so sure of its few domains that it hardly takes to a new one
MIXED_SHARE = 0.4  # of the rows come from a world made up for that row
PLAIN_TEXT_EVERY = 10  # rows: one without its prompt, so that the model can also just write
TRAINED = [domain for domain in domains() if domain != HELD_OUT_DOMAIN]


def train_tokenizer(rows: list[Row]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on prompts and responses; a text starts with <s>."""
    bpe = Tokenizer(models.BPE())
    # Numbers stay apart from the space before them: the same tokens in what is read and what is written.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=False)]
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


def generated(domain: str, count: int, seed: int) -> Sequence[Row]:
    """Return rows of a domain with the prompt that the package uses by default."""
    return list(read_rows("generated", domain=domain, count=count, seed=seed))


def mixed(count: int, seed: int) -> list[Row]:
    """Return rows from worlds made up row by row: a new noun, attributes of all trained domains, new ones too.

    They leave nothing to know, only to read: from them the model learns to copy words that it has never seen.
    """
    rng = random.Random(f"splitcom/mixed/{seed}")
    known = [load_domain(name) for name in TRAINED]
    pairs = [draw_pair(_made_up_domain(known, rng), rng) for _ in range(count)]
    return [Row(index, f"{mr} =>", text, {}) for index, (mr, text) in enumerate(pairs)]


def _made_up_domain(known: list[Domain], rng: random.Random) -> Domain:
    names = [*rng.choice(known).names, "{coined}", f"{{coined}} {_word(rng).capitalize()}"]
    kinds = [rng.choice(rng.choice(known).kinds), _word(rng), f"{_word(rng)} {_word(rng)}"]
    attributes = {}
    for _ in range(6):
        source = rng.choice(rng.choice(known).attributes)
        attributes[source.name] = _with_new_values(source, rng)
    for _ in range(2):
        new = _new_attribute(rng)
        attributes[new.name] = new
    return Domain(names, kinds, list(attributes.values()), rng.choice(known).openings, "")


def _value(rng: random.Random) -> str:
    patterns = ["{coined}", "{person}", "{2-99}", "{100-2020}", "{count}", "{colour}", _word(rng)]
    return rng.choice(
        [*patterns, f"{_word(rng)} {_word(rng)}", f"{{2-99}} {_word(rng)}", f"{{coined}} {_word(rng)}"]
    )


def _with_new_values(attribute: Attribute, rng: random.Random) -> Attribute:
    """Give an attribute other values half of the time, where its phrases do not hang on the value."""
    roles = next(iter(attribute.phrasings.values()))
    if "{v}" not in roles["verb"][0] or rng.random() < 0.5:
        return attribute
    return Attribute(attribute.name, {_value(rng): roles})


def _new_attribute(rng: random.Random) -> Attribute:
    word = _word(rng)
    as_noun = {
        "post": [f"with {{v}} {word}", f"with a {word} of {{v}}"],
        "verb": [f"has {{v}} {word}", f"has a {word} of {{v}}", f"is known for its {word}: {{v}}"],
    }
    as_verb = {
        "post": [f"{word}ed by {{v}}", f"{word}ing {{v}}"],
        "verb": [f"{word}s {{v}}", f"was {word}ed by {{v}}", f"is {word}ed in {{v}}"],
        "front": [f"{word.capitalize()}ed by {{v}}", f"{word.capitalize()}ing {{v}}"],
    }
    return Attribute(word, {_value(rng): rng.choice([as_noun, as_verb])})


def _word(rng: random.Random) -> str:
    """Make up a lower-case word of one or two syllables, from all over the alphabet."""
    onsets = [
        "",
        *"bcdfghjklmnprstvwz",
        "bl",
        "ch",
        "cl",
        "cr",
        "fr",
        "gr",
        "pl",
        "qu",
        "sh",
        "sp",
        "st",
        "th",
        "tr",
    ]
    rimes = [
        vowel + coda
        for vowel in ("a", "e", "i", "o", "u", "ee", "oa", "ou", "y")
        for coda in ("", *"dklmnprstx")
    ]
    return "".join(rng.choice(onsets) + rng.choice(rimes) for _ in range(rng.randint(1, 2)))


def training_batches(samples: Sequence[Sample], steps: int) -> list[Batch]:
    """Arrange the samples into `steps` batches of like lengths, in random order: this saves padding."""
    by_length = sorted(samples, key=lambda sample: sample.num_tokens)
    arranged = list(batches(by_length, BATCH_SIZE)[-steps:])
    random.Random(SEED).shuffle(arranged)
    return arranged


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Return the mean loss per response token, in nats; smoothed in training."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    smoothing = LABEL_SMOOTHING if model.training else 0.0
    return cross_entropy(
        logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), label_smoothing=smoothing
    )


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
def evaluate(model: LlamaForCausalLM, samples: Sequence[Sample]) -> float:
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
    parser.add_argument("--steps", type=int, default=3800)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    num_rows = arguments.steps * BATCH_SIZE
    per_domain = math.ceil(num_rows * (1 - MIXED_SHARE) / len(TRAINED))
    rows = [row for domain in TRAINED for row in generated(domain, per_domain, SEED)]
    rows += mixed(num_rows - len(rows), SEED)
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
