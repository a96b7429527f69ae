"""Print, as a Markdown table, when the runs of a comparison have reached held-out losses, by their clocks.

python experiments/stragglers.py runs/stragglers --loss 2.2 2.1 2.0
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

CLIENTS = {"1×": "client-0", "4×": "client-1", "16×": "client-2"}


def seconds_to(lines: list[dict[str, Any]], loss: float) -> float | None:
    """When a run was first evaluated at or below this loss."""
    return min(
        (
            line["seconds"]["virtual"]
            for line in lines
            if line["eval_loss"] is not None and line["eval_loss"] <= loss
        ),
        default=None,
    )


def spread(values: list[float | None], digits: int = 1) -> str:
    """Mean and sample standard deviation; never where one has not got there."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "never" if not known else f"{len(known)} of {len(values)} seeds"
    return f"{mean(known):.{digits}f}" + (f" ± {stdev(known):.{digits}f}" if len(known) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("--loss", type=float, nargs="+", required=True)
    arguments = parser.parse_args()
    runs = defaultdict(list)
    for run in json.loads((arguments.comparison / "comparison.json").read_text(encoding="utf-8"))["runs"]:
        path = arguments.comparison / run["folder"] / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        runs[run["result"]["label"]].append((run["result"], lines))
    head = ["scheduling", *(f"s to {loss:g}" for loss in arguments.loss), "best loss", "s in all", "MB"]
    print("| " + " | ".join([*head, "updates " + " : ".join(CLIENTS)]) + " |")
    print("| ---" + " | ---:" * (len(head)) + " |")
    for label, seeds in runs.items():
        results, lines = [result for result, _ in seeds], [line for _, own in seeds for line in own]
        updates = [
            sum(line["updates"] for line in lines if line["client"] == name) / len(seeds)
            for name in CLIENTS.values()
        ]
        cells = [
            label,
            *(spread([seconds_to(own, loss) for _, own in seeds]) for loss in arguments.loss),
            spread([result["eval"]["best_loss"] for result in results], 3),
            spread([result["seconds"]["virtual"] for result in results]),
            spread([result["bytes"]["total"] / 1e6 for result in results]),
            " : ".join(f"{number:.0f}" for number in updates),
        ]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
