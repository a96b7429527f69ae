"""What padding costs at clients and at the server, and what packing samples into one row would save.

    python benchmarks/padding.py [MODEL] [DATA] --out padding.json

MODEL is a model's folder (SmolLM2's by experiments/smollm2.py), DATA a file of GSM8K; without them they are the bundled
model and generated rows. First the part of all
positions that is padding: in batches as a run draws them, whole and with `training.accumulate`; and in the batches of
three clients put together, as the server's body has them, whole and with `engine.max_tokens_per_pass`. Then the
processor time of a forward and a backward pass of two of the model's blocks with LoRA, frozen otherwise, on the same
samples: padded, packed into one row whose samples do not see one another, and, as the bound of what anything could
save, on as many tokens in samples of equal length. Interleaved, medians, one thread.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModel

from splitcom.config import Config
from splitcom.engines.passes import plan_passes
from splitcom.models.load import resolve
from splitcom.parties.texts import encode_source

GSM8K = {"data.prompt": "Question: {question}\nAnswer:", "data.response": "answer", "data.max_tokens": 512}
BLOCKS = 2


def padding_of(batches: list[list[int]]) -> float:
    """The part of all positions that is padding."""
    return 1 - sum(map(sum, batches)) / sum(max(batch) * len(batch) for batch in batches)


def drawn(lengths: list[int], size: int, number: int) -> list[list[int]]:
    """So many batches as an epoch in random order has them."""
    draw = random.Random(0)
    return [draw.sample(lengths, size) for _ in range(number)]


def inputs(lengths: list[int], kind: str) -> dict[str, torch.Tensor]:
    """What the blocks get of these samples."""
    total = sum(lengths)
    if kind == "equal":
        return {"input_ids": torch.ones(len(lengths), round(total / len(lengths)), dtype=torch.int64)}
    if kind == "padded":
        places = torch.arange(max(lengths))
        mask = (places[None] < torch.tensor(lengths)[:, None]).long()
        return {"input_ids": torch.ones_like(mask), "attention_mask": mask}
    sample = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    sees = (sample[:, None] == sample[None]).tril()
    return {
        "input_ids": torch.ones(1, total, dtype=torch.int64),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "attention_mask": torch.zeros(1, 1, total, total).masked_fill(~sees, torch.finfo(torch.float32).min),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="bundled")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the measurements as JSON here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = {"data.source": options.data, **GSM8K} if options.data else {}
    encoded = encode_source(Config().override({"model.source": options.model, **rows}))
    lengths = [sample.num_tokens for sample in encoded.samples]
    print(
        f"{len(lengths)} samples of {min(lengths)} to {max(lengths)} tokens, {statistics.mean(lengths):.0f} in the mean"
    )
    shares = {}
    for parts in (1, 2, 4):
        size = 8 // parts
        batches = [
            sorted(batch)[at : at + size] for batch in drawn(lengths, 8, 500) for at in range(0, 8, size)
        ]
        shares[f"clients, 8 samples, accumulate = {parts}"] = padding_of(batches)
    for most in (None, 4096, 2048, 1024):
        steps = drawn(lengths, 24, 500)
        passes = [[step[row] for row in rows] for step in steps for rows in plan_passes(step, most)]
        shares[f"server, 24 samples, max_tokens_per_pass = {most}"] = padding_of(passes)
    for place, share in shares.items():
        print(f"{place}: {share:.1%} of the positions are padding")

    config = AutoConfig.from_pretrained(resolve(options.model), num_hidden_layers=BLOCKS)
    model = get_peft_model(AutoModel.from_config(config), LoraConfig(r=8, target_modules="all-linear"))
    seconds: dict[str, list[float]] = {"padded": [], "packed": [], "equal": []}
    usual = next(iter(shares.values()))  # of a batch with as much padding, a few turns suffice
    batch = min(drawn(lengths, 8, 500), key=lambda one: abs(padding_of([one]) - usual))
    for turn in range(options.rounds + 1):
        for kind, times in seconds.items():
            given = inputs(batch, kind)
            start = time.process_time()
            model(**given).last_hidden_state.sum().backward()
            if turn:  # the first warms up
                times.append(time.process_time() - start)
    medians = {kind: statistics.median(times) for kind, times in seconds.items()}
    for kind, second in medians.items():
        print(f"{kind}: {second:.2f} s of one core, {second / medians['equal']:.2f} of equal lengths")
    if options.out:
        found = {"padding": shares, "cpu_s": medians, "batch": batch}
        options.out.write_text(json.dumps({"benchmark": "padding", **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
