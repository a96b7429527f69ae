"""Print, as Markdown tables, what the results page does not have of comparisons: parts by flow, and time to quality.

python experiments/paper/tables.py flows runs/paper/a_gpt2_6m runs/paper/b_gpt2_6m
python experiments/paper/tables.py time runs/paper/a_gpt2_6m --within 1
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev

from splitcom.flows import AT_CUT
from splitcom.report.folder import ClientRound, Run, load_comparison
from splitcom.report.summary import BASELINE
from splitcom.report.traffic import rounds_of

MBPS = (1, 10, 100)
LATENCY_S = 0.02


def part(lines: Sequence[ClientRound], flows: Iterable[str], first: int = 0) -> float | None:
    """Bytes of these flows from round `first` on, in per cent of what they take as fp16."""
    chosen = [line for line in lines if line.round >= first]
    sent, whole = (
        sum(sizes.get(flow, 0) for sizes in found for flow in flows)
        for found in ([line.bytes for line in chosen], [line.uncompressed_bytes for line in chosen])
    )
    return 100 * sent / whole if whole else None


def flow_cells(runs: Sequence[Run]) -> list[str]:
    """Per cent of fp16 by flow; of all at the cut also of fp32, and without the first epoch."""
    columns = [[part(run.metrics, [flow]) for run in runs] for flow in AT_CUT]
    total = [part(run.metrics, AT_CUT) for run in runs]
    half = [None if value is None else value / 2 for value in total]
    return list(map(spread, [*columns, total, half, [part(run.metrics, AT_CUT, 2) for run in runs]]))


def time_cells(runs: Sequence[Run], goals: dict[int, float]) -> list[str]:
    """Minutes of transfer until the goal of the seed is reached, by link."""
    return [spread([minutes_to(run, goals[run.result.seed], mbps) for run in runs]) for mbps in MBPS]


def minutes_to(run: Run, goal: float, mbps: float) -> float | None:
    """Transfer alone: of each round the client with the most bytes, two latencies an exchange; None for never."""
    losses = {line.round: line.eval_loss for line in run.metrics}
    seconds = 0.0
    for (up, down, exchanges), loss in zip(rounds_of(run.metrics), losses.values(), strict=True):
        seconds += 8 * (up + down) / (mbps * 1e6) + 2 * exchanges * LATENCY_S
        if loss is not None and loss <= goal:
            return seconds / 60
    return None


def spread(values: Sequence[float | None]) -> str:
    """Mean ± sample standard deviation."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return f"{len(known)} of {len(values)} seeds" if known else "–"
    return f"{mean(known):.3g}" + (f" ± {stdev(known):.2g}" if len(known) > 1 else "")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("table", choices=("flows", "time"))
    parser.add_argument("comparisons", type=Path, nargs="+")
    parser.add_argument("--within", type=float, default=1.0, help="per cent above SplitLoRA's best loss")
    arguments = parser.parse_args()
    flows = arguments.table == "flows"
    names = [*AT_CUT, "all", "all, of fp32", "all, epochs 2 …"] if flows else [f"{m} Mbit/s" for m in MBPS]
    for folder in arguments.comparisons:
        by_label: defaultdict[str, list[Run]] = defaultdict(list)
        for run in load_comparison(folder).runs:
            by_label[run.result.label].append(run)
        goals = {
            (run.result.group, run.result.seed): run.result.eval.best_loss * (1 + arguments.within / 100)
            for runs in by_label.values()
            for run in runs
            if run.result.method == BASELINE
        }
        print(f"\n{folder.name}\n\n| method | " + " | ".join(names) + " |\n| --- |" + " ---: |" * len(names))
        for label, runs in by_label.items():
            group = runs[0].result.group
            cells = (
                flow_cells(runs)
                if flows
                else time_cells(runs, {s: g for (n, s), g in goals.items() if n == group})
            )
            print(f"| {label} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
