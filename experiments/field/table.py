"""What methods that send adapters alone cost and give: a row for each variant and seed of a comparison, as Markdown.

python experiments/field/table.py runs/field/fda_opt
"""

import json
import sys
from pathlib import Path

_COLUMNS = (
    "variant", "rounds", "local steps", "loss", "best",
    "adapters up, kB", "down, kB", "estimates, kB", "all, kB", "all, % of the first",
)  # fmt: skip


def row_of(run: Path) -> list[str | float]:
    """The numbers of one run; bytes in thousands, local steps of all clients together."""
    result = json.loads((run / "result.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    sent, losses = result["bytes"], [line["eval_loss"] for line in lines if line["eval_loss"] is not None]
    return [
        result.get("label") or run.name,
        result["rounds"],
        sum(line["steps"] for line in lines),
        result["eval"]["loss"],
        min(losses),
        *(sent[flow] / 1000 for flow in ("adapter_up", "adapter_down", "sketch_up", "total")),
    ]


def main() -> None:
    """Print the table."""
    runs = sorted(Path(sys.argv[1]).rglob("result.json"), key=lambda path: path.stat().st_mtime)
    print(f"| {' | '.join(_COLUMNS)} |\n| --- |{' ---: |' * (len(_COLUMNS) - 1)}")
    first = None
    for path in runs:
        name, rounds, steps, loss, best, *sizes = row_of(path.parent)
        first = first or sizes[-1]
        numbers = [f"{loss:.4f}", f"{best:.4f}", *(f"{size:.4g}" for size in sizes)]
        print(f"| {name} | {rounds} | {steps} | {' | '.join(numbers)} | {100 * sizes[-1] / first:.1f} |")


if __name__ == "__main__":
    main()
