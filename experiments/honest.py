"""How far honest clients lie from one another: what limits and the log's "unlike the others" make of normal runs.

    python experiments/honest.py --out runs/honest

A line for each kind of run, of five clients and four rounds with the bundled model: norms of updates beside
the median of its round (`federation.max_update_ratio` clips above 5), the extremes of what is compared, and how many
lines the log has of clients that are unlike the others, of client rounds. Runs that are done are kept in the folder.
"""

import argparse
import csv
import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from splitcom import Config
from splitcom.data.generate import domains, generate
from splitcom.methods.run import train

BASE = {
    "method": "splitlora",
    "data.prompt": "",
    "data.samples": 30,
    "data.held_out_samples": 5,
    "training.rounds": 4,
    "training.batch_size": 3,
    "training.lr": 3e-2,
    "training.checkpoint_every": 4,
    "federation.clients": 5,
    "federation.max_update_ratio": None,
    "lora.targets": ["q_proj", "v_proj", "up_proj", "down_proj"],
    "evaluation.every": 4,
    "evaluation.codec": "none",
    "evaluation.generate": 0,
}
KINDS = ("norm", "activation_norm", "gradient_norm", "loss", "update_cosine", "activation_cosine")


def rows_of(folder: Path, counts: list[int], domain_of: list[str]) -> dict[str, object]:
    """Settings of a run whose clients have so many rows each, of these domains."""
    path = folder / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["client", "mr", "text", "long"])
        for client, (count, domain) in enumerate(zip(counts, domain_of, strict=True)):
            for row in generate(domain, count, seed=client):
                writer.writerow(
                    [client, row["mr"], row["text"], "long" if len(row["text"]) > 120 else "short"]
                )
    return {
        "data.source": str(path),
        "data.samples": None,
        "partition.kind": "column",
        "partition.column": "client",
    }


def variants(folder: Path) -> dict[str, dict[str, object]]:
    """What differs from the base, by the name of the run."""
    names = domains()
    classes = rows_of(folder, [8] * 5, [names[0]] * 5)
    return {
        "as it is": {},
        "paper's codecs": {"method": "splitcom", "preset": "paper"},
        "Dirichlet 0.1 of lengths": {"partition.kind": "dirichlet_length", "partition.alpha": 0.1},
        "one domain a client": {"rows": ([6] * 5, [names[index % len(names)] for index in range(5)])},
        "20 times the rows": {"rows": ([2, 2, 2, 2, 40], [names[0]] * 5)},
        "U-shape": {"model.tail_blocks": 1},
        "FedLoRA": {"method": "fedlora"},
        "classification": classes
        | {
            "partition.kind": "iid",
            "data.task": "classification",
            "data.prompt": "{text}",
            "data.response": "long",
            "data.labels": ["long", "short"],
        },
        "no clipping, no warm-up": {"training.clip_norm": None, "training.warmup": 0.0},
    }


def measure(changes: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Extremes over all rounds and clients of a run."""
    changes = {**changes}
    if (rows := changes.pop("rows", None)) is not None:
        changes = rows_of(folder, *rows) | changes
    train(Config().override(BASE | changes), folder / "run")
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").open()]
    lines = [line for line in lines if line.get("against_others")]
    found: dict[str, Any] = {}
    by_round: dict[int, list[float]] = {}
    for line in lines:
        if line["update_norm"] is not None:
            by_round.setdefault(line["round"], []).append(line["update_norm"])
    ratios = {index: [norm / median(norms) for norm in norms] for index, norms in by_round.items()}
    found["norm"] = [min(map(min, ratios.values())), max(map(max, ratios.values()))]
    found["first"] = max(ratios[1])
    for kind in KINDS[1:]:
        values = [line["against_others"][kind] for line in lines if kind in line["against_others"]]
        if values:
            found[kind] = [min(values), max(values)]
    unlike = [f"{line['round']} {line['client']} {kind}" for line in lines for kind in line["unlike"]]
    return found | {"unlike": unlike, "lines": len(lines)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "runs.jsonl"
    found = dict(map(json.loads, path.open())) if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for index, (name, changes) in enumerate(variants(Path(folder)).items()):
            if name not in found:
                own = Path(folder) / str(index)
                own.mkdir()
                found[name] = measure(changes, own)
                with path.open("a") as file:
                    file.write(json.dumps([name, found[name]]) + "\n")
                print(name, found[name], flush=True)
    print("| run | norm of updates, first round | all rounds | activations | gradients | loss | cosine of updates | "
          "of activations | unlike |")  # fmt: skip
    print("| --- |" + " ---: |" * 8)
    for name, one in found.items():
        cells = ["–".join(f"{value:.2f}" for value in one[kind]) if kind in one else "" for kind in KINDS]
        print(
            f"| {name} | {one['first']:.2f} | {' | '.join(cells)} | {len(one['unlike'])} of {one['lines']} |"
        )


if __name__ == "__main__":
    main()
