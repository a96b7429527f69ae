"""What splitting costs: tokens per second of the whole split loop in process against plain peft on the uncut model.

One client; the same batches, precision, optimizer and clipping. The loops take turns, round by round, and the median
of the ratios of neighbouring rounds is what counts, since a shared machine is noisy:

    python benchmarks/overhead.py [--rounds 7] [--model FOLDER] [--out overhead.json]

The split loops, in the standard form and the U-shape, are the product's: messages as bytes, both sessions, all codecs
and reference stores, the ledger and the virtual clock. What a run does between rounds (evaluation, checkpoints) is in
no loop.

What gate and controller cost is counted apart, as their share of the CPU time of all rounds but the first.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any
from unittest.mock import patch

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from splitcom.codecs.chain.temporal import Temporal
from splitcom.config import Config
from splitcom.data import Batch
from splitcom.models import load_model, load_tokenizer
from splitcom.parties.parts import load_parts
from splitcom.parties.texts import load_texts
from splitcom.server.controllers import Controllers
from splitcom.simulation.simulation import Simulation
from splitcom.training.optimize import Optimizer
from splitcom.training.plan import progress_of, round_batches

CODECS = {
    "none": ("none", "none"),
    "temporal + delta + int4 + zstd": ("temporal(0.98) > delta > int4 > zstd", "int8 > zstd"),
}
FORMS = {"split": 0, "U-shape": 1}  # tail blocks
LOOPS = {f"{form}, {codec}": (form, codec) for form in FORMS for codec in CODECS}

CONTROLLERS = ("fixed(0.98)", "linear(0.95, 0.99)", "bangbang(0.95, 0.99)", "ddpg(0.95, 0.99)")


def gpt2_small(folder: Path, blocks: int) -> str:
    """GPT-2 small's shape with random weights, the bundled tokenizer, and fewer blocks to keep a round short."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer("bundled")
    config = GPT2Config(
        n_layer=blocks,
        vocab_size=len(tokenizer),
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def plain_loop(config: Config, plans: list[list[Batch]]) -> Iterator[None]:
    """Plain peft: forward, backward, clip, step."""
    model = load_model(config.model.source)
    model = get_peft_model(model, LoraConfig(r=config.lora.rank, lora_alpha=config.lora.alpha)).train()
    optimizer = Optimizer((p for p in model.parameters() if p.requires_grad), config.training)
    for index, plan in enumerate(plans):
        for step, batch in enumerate(plan):
            out = model(
                batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels, use_cache=False
            )
            out.loss.backward()
            optimizer.step(progress_of(config, index + 1, step, len(plan)))
        yield


def split_loop(config: Config, folder: Path) -> Iterator[None]:
    """The product's own loop with one client."""
    simulation = Simulation(config, load_texts(config), load_parts(config), folder)
    rounds = simulation.federation.run()
    next(rounds)  # before training
    for _ in rounds:
        yield


def timed(step: Callable[[], None]) -> float:
    """Seconds a call takes."""
    started = perf_counter()
    step()
    return perf_counter() - started


def measure(config: Config, folder: Path) -> dict[str, float]:
    """Median over rounds of plain seconds over split seconds, for each form and codec."""
    texts = load_texts(config)
    rounds = range(1, config.training.rounds + 1)
    plans = [round_batches(texts.partition.parts[0], config, "client-0", index) for index in rounds]
    tokens = sum(int(batch.lengths.sum()) for batch in plans[0])
    loops = {"plain": plain_loop(config, plans)}
    for name, (form, codec) in LOOPS.items():
        activation, gradient = CODECS[codec]
        changes = {
            "model.tail_blocks": FORMS[form],
            "flows.activation_up.codec": activation,
            "flows.activation_down.codec": activation,
            "flows.gradient_up.codec": gradient,
            "flows.gradient_down.codec": gradient,
        }
        loops[name] = split_loop(config.override(changes), folder / name)
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for index in rounds:
        order = list(loops) if index % 2 else list(reversed(loops))
        for name in order:
            seconds[name].append(timed(lambda name=name: next(loops[name])))
    result = {"plain tokens/s": tokens / statistics.median(seconds["plain"][1:])}
    for name in LOOPS:
        pairs = zip(seconds["plain"][1:], seconds[name][1:], strict=True)  # the first round warms up
        result[name] = statistics.median(plain / split for plain, split in pairs)
    return result


def measure_control(config: Config, folder: Path) -> dict[str, float]:
    """CPU seconds of gate and controller over those of whole rounds, for each controller."""
    result = {}
    for index, text in enumerate(CONTROLLERS):
        changes = {
            "flows.activation_up.codec": CODECS["temporal + delta + int4 + zstd"][0],
            "flows.activation_up.controller": text,
            "evaluation.every": 1,  # of one held-out sample, so that there is something to control by
            "training.checkpoint_every": config.training.rounds,
        }
        seconds: Counter[str] = Counter()
        with clocked(Temporal, "similar", seconds), clocked(Controllers, "observe", seconds):
            rounds = split_loop(config.override(changes), folder / f"control-{index}")
            next(rounds)  # warms up
            seconds.clear()
            started = process_time()
            for _ in rounds:
                pass
            result[text] = seconds.total() / (process_time() - started)
    return result


@contextmanager
def clocked(owner: type, name: str, seconds: Counter[str]) -> Iterator[None]:
    """Add up the CPU seconds of a method."""
    method = getattr(owner, name)

    def timed_method(*arguments: Any) -> Any:
        started = process_time()
        answer = method(*arguments)
        seconds[name] += process_time() - started
        return answer

    with patch.object(owner, name, timed_method):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", help="this one, a folder or a name on the hub, in place of the two here")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {
            "bundled": ("bundled", 64, 8),
            "GPT-2 small's shape, 4 blocks": (gpt2_small(folder / "gpt2", blocks=4), 8, 8),
        }
        if arguments.model:
            models = {arguments.model: (arguments.model, 8, 8)}
        results = {}
        for number, (label, (source, samples, batch_size)) in enumerate(models.items()):
            config = Config().override(
                {
                    "model.source": source,
                    "model.device": "cpu",
                    "federation.clients": 1,
                    "data.samples": samples,
                    "data.held_out_samples": 1,
                    "training.rounds": arguments.rounds,
                    "training.batch_size": batch_size,
                    "evaluation.every": arguments.rounds,
                }
            )
            runs = folder / f"runs-{number}"
            results[label] = measure(config, runs) | measure_control(config, runs)
    for label, figures in results.items():
        print(f"{label}: plain peft {figures['plain tokens/s']:,.0f} tokens/s")
        for name in LOOPS:
            print(f"  {name:42} {figures[name]:.3f} x plain")
        for controller in CONTROLLERS:
            print(f"  gate and {controller:33} {figures[controller]:.2%} of a step")
    if arguments.out:
        arguments.out.write_text(json.dumps({"cores": os.cpu_count(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
