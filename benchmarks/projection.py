"""What projected references cost and save: similarity, decisions and memory at the sender.

    python benchmarks/projection.py [--out projection.json]    (from the project's root)

Activations are those of an uncompressed LoRA fine-tuning of the whole model, one client's share of the experiments: 200
samples, 5 epochs. They go through `temporal(threshold) > projection(dim, kind)`, sender and receiver with a reference
store each. The receiver's references are whole: at each visit of a sample they give the true cosine, and with it the
decision that a sender with whole references would take at that moment.

The error is that of 1 - cosine, relative to its true value. Beside it stands the Johnson-Lindenstrauss bound for
squared distances, 2 exp(-(e**2 / 2 - e**3 / 3) n / 2) = 0.05 (Achlioptas, 2003), where each token of a sample adds
numbers of its own, n = dim * tokens, and where all share the same error, n = dim. Goal: memory of at most 0.1 of fp16
references and at most 2 % of decisions that differ, at every threshold.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from splitcom.codecs import Context, MemoryReferences, Ragged, parse
from splitcom.codecs.chain.projection import Projection
from splitcom.codecs.chain.temporal import Temporal
from splitcom.config import Config
from splitcom.parties.parts import load_parts
from splitcom.parties.texts import load_texts
from splitcom.training.optimize import Optimizer
from splitcom.training.plan import progress_of, round_batches

Visit: TypeAlias = tuple[list[int], Ragged]

EXPERIMENTS = ("experiments/e2e_gpt2_6m.toml", "experiments/e2e_tiny1m.toml")
THRESHOLDS = (0.95, 0.98, 0.99, 0.995)
KINDS = ("random", "hadamard", "pca")
MEMORIES = (1 / 64, 1 / 32, 1 / 16, 3 / 32, 1 / 4)  # at the sender, of fp16 references
SEEDS = (0, 1, 2)
MEMORY_GOAL, DECISION_GOAL = 0.1, 0.02


def activations(config: Config) -> Iterator[Visit]:
    """Train, and give what the front hands on in each step: sample ids and hidden states."""
    samples = load_texts(config).partition.parts[0]
    parts = load_parts(config)
    assert parts.body is not None
    front, body = parts.front.train(), parts.body.train()
    optimizers = [
        Optimizer((p for p in part.parameters() if p.requires_grad), config.training)
        for part in (front, body)
    ]
    for epoch in range(1, config.training.rounds + 1):
        plan = round_batches(samples, config, "client-0", epoch)
        for step, batch in enumerate(plan):
            hidden = front(batch.input_ids, batch.attention_mask)
            yield batch.sample_ids, Ragged.from_padded(hidden.detach(), batch.attention_mask)
            logits, labels = body(hidden, batch.attention_mask)[:, :-1], batch.labels[:, 1:]
            torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels).backward()
            for optimizer in optimizers:
                optimizer.step(progress_of(config, epoch, step, len(plan)))


def walk(visits: list[Visit], temporal: Temporal, projection: Projection, seed: int) -> dict[str, object]:
    """Send all visits; give true and reduced cosines, whether decisions differ, and the memory at the sender."""
    codec = parse(f"{temporal} > {projection} > fp16")
    sender, receiver = MemoryReferences(), MemoryReferences()
    true, reduced, wrong = [], [], []
    for ids, batch in visits:
        lengths = batch.lengths.numpy()
        if ids[0] in receiver:  # in the first epoch none is known, later all are
            whole = batch.values if projection.unbiased else None
            seen = projection.reduce(batch.values, lengths, seed, sender.basis)
            true.append(temporal.measure(batch.values, receiver.read(ids), lengths))
            held = Projection.unpack(sender.read_kept(ids), int(lengths.sum()))
            reduced.append(temporal.measure(seen, held, lengths, whole))
        encoded = codec.encode(batch, ids, Context(sender, flow_seed=seed))
        if ids[0] in receiver:
            wrong.append(temporal.similar(true[-1], temporal.threshold) != encoded.skipped.numpy())
        codec.decode(encoded.packet, receiver)
    return {
        "true": np.concatenate(true),
        "reduced": np.concatenate(reduced),
        "wrong": float(np.concatenate(wrong).mean()),
        "memory": sender.kept_bytes / receiver.kept_bytes,
    }


def measure(visits: list[Visit], projection: Projection) -> dict[str, object]:
    """One line of the table."""
    seeds = SEEDS if projection.unbiased else SEEDS[:1]
    walks = {t: [walk(visits, Temporal(t), projection, seed) for seed in seeds] for t in THRESHOLDS}
    every = [one for several in walks.values() for one in several]
    true, reduced = (np.concatenate([one[key] for one in every]) for key in ("true", "reduced"))
    moved = true < 1 - 1e-4  # what has hardly moved is below the rounding of fp16 references
    errors = np.abs((true - reduced) / (1 - true))[moved]
    tokens = sum(len(batch.values) for _, batch in visits) / sum(len(ids) for ids, _ in visits)
    return {
        "kind": projection.kind,
        "dim": projection.dim,
        "memory": every[0]["memory"],
        "error_median": float(np.median(errors)),
        "error_95": float(np.quantile(errors, 0.95)),
        "bound_95_shared": jl_bound(projection.dim) if projection.unbiased else None,
        "bound_95": jl_bound(projection.dim * tokens) if projection.unbiased else None,
        "wrong_decisions": {str(t): statistics.mean(one["wrong"] for one in walks[t]) for t in THRESHOLDS},
    }


def jl_bound(numbers: float, failure: float = 0.05) -> float | None:
    """The relative error that the bound leaves to a part of `failure`; None where that is above 1: it says nothing."""
    errors = np.linspace(0, 1, 10_001)
    enough = (errors**2 / 2 - errors**3 / 3) * numbers / 2 >= math.log(2 / failure)
    return float(errors[enough.argmax()]) if enough.any() else None


def table(rows: list[dict[str, object]]) -> Iterator[str]:
    """The lines of one model."""
    thresholds = "".join(f"{t:>7}" for t in THRESHOLDS)
    yield f"{'':23}{'error of 1 - cosine':26}  decisions that differ, %, at"
    yield f"{'kind':9}{'dim':>5}{'memory':>8} {'median':>7}{'95 %':>6}{'bound':>6}{'shared':>7}  {thresholds}"
    for row in rows:
        bounds = (row["bound_95"], row["bound_95_shared"])
        bound, shared = ("-" if value is None else f"{value:.2f}" for value in bounds)
        wrong = "".join(f"{100 * rate:7.2f}" for rate in row["wrong_decisions"].values())
        yield (
            f"{row['kind']:9}{row['dim']:5d}{row['memory']:8.3f} {row['error_median']:7.3f}{row['error_95']:6.2f}"
            f"{bound:>6}{shared:>7}  {wrong}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "experiments", nargs="*", default=EXPERIMENTS, help="files whose model and data are used"
    )
    parser.add_argument("--out", type=Path, help="write the measurements as JSON here")
    options = parser.parse_args()
    results: dict[str, list[dict[str, object]]] = {}
    for file in options.experiments:
        changes = {
            "federation.clients": 1,
            "data.samples": 200,
            "data.held_out_samples": 1,
            "training.rounds": 5,
        }
        visits = list(activations(Config.load(file, changes)))
        hidden = visits[0][1].hidden
        results[file] = [
            measure(visits, Projection(round(memory * 2 * hidden) - 2, kind))
            for kind in KINDS
            for memory in MEMORIES
        ]
        print(f"{file}: hidden {hidden}", *table(results[file]), sep="\n", flush=True)
    if options.out:
        options.out.write_text(json.dumps({"benchmark": "projection", "results": results}, indent=1) + "\n")
    met = all(
        any(
            row["kind"] == "random"
            and row["memory"] <= MEMORY_GOAL
            and max(row["wrong_decisions"].values()) <= DECISION_GOAL
            for row in rows
        )
        for rows in results.values()
    )
    print(
        f"goal (memory at most {MEMORY_GOAL}, at most {DECISION_GOAL:.0%} differ): {'met' if met else 'missed'}"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
