"""What methods cost and give, all bytes counted: a row for each variant and seed of a comparison, as Markdown.

"From round 2" leaves the first round out, and evaluation, as papers do whose first visits are sent whole: of what
crosses the cut and of adapters, in % of the same flows as fp16.

python experiments/field/table.py runs/field/fda_opt
"""

import json
import sys
from pathlib import Path
from typing import Any

from splitcom.flows import ADAPTERS, AT_CUT

_COLUMNS = (
    "variant", "rounds", "local steps", "loss", "best",
    "cut, kB", "adapters up, kB", "down, kB", "estimates, kB", "all, kB",
    "all, % of the first", "from round 2, % of fp16",
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
        sum(sent[flow] for flow in AT_CUT) / 1000,
        *(sent[flow] / 1000 for flow in ("adapter_up", "adapter_down", "sketch_up", "total")),
        100 * later(lines, "bytes") / max(later(lines, "uncompressed_bytes"), 1),
    ]


def later(lines: list[dict[str, Any]], which: str) -> int:
    """What all clients have sent from round 2 on, but for evaluation."""
    flows = (*AT_CUT, *ADAPTERS, "sketch_up")
    return sum(line[which].get(flow, 0) for line in lines if line["round"] > 1 for flow in flows)


def main() -> None:
    """Print the table."""
    runs = sorted(Path(sys.argv[1]).rglob("result.json"), key=lambda path: path.stat().st_mtime)
    print(f"| {' | '.join(_COLUMNS)} |\n| --- |{' ---: |' * (len(_COLUMNS) - 1)}")
    first = None
    for path in runs:
        name, rounds, steps, loss, best, *sizes, later_share = row_of(path.parent)
        first = first or sizes[-1]
        numbers = [f"{loss:.4f}", f"{best:.4f}", *(f"{size:.4g}" for size in sizes)]
        shares = f"{100 * sizes[-1] / first:.1f} | {later_share:.1f}"
        print(f"| {name} | {rounds} | {steps} | {' | '.join(numbers)} | {shares} |")


if __name__ == "__main__":
    main()
