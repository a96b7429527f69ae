"""Print controllers by DDPG's own measure: percent of loss that a run has won, less the price of what it has sent.

python experiments/rewards.py runs/controllers/controllers runs/paper/controllers_gpt2_6m [--price 0.2]
"""

import argparse
from collections import defaultdict
from math import log
from pathlib import Path
from statistics import mean, stdev

from splitcom.report.folder import Run, load_comparison
from splitcom.report.summary import BASELINE

FLOW = "activation_up"


def reward(run: Run, price: float) -> float:
    """100 log(first loss / last loss) - price * the sum over rounds of the part of the activations that was sent."""
    parts: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
    for line in run.metrics:
        parts[line.round][0] += line.bytes[FLOW]
        parts[line.round][1] += line.uncompressed_bytes[FLOW]
    sent = sum(some / whole for some, whole in parts.values() if whole)
    return 100 * log(run.result.eval.initial_loss / run.result.eval.loss) - price * sent


def percent_sent(run: Run) -> float:
    """Activations sent, in per cent of fp16."""
    whole = sum(line.uncompressed_bytes[FLOW] for line in run.metrics)
    return 100 * sum(line.bytes[FLOW] for line in run.metrics) / whole


def spread(values: list[float], digits: int) -> str:
    """Mean ± sample standard deviation."""
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def main() -> None:
    """Print a table for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("comparisons", type=Path, nargs="+")
    parser.add_argument("--price", type=float, default=0.2, help="as of ddpg")
    arguments = parser.parse_args()
    for folder in arguments.comparisons:
        runs = load_comparison(folder).runs
        base = {run.result.seed: run.result.eval.loss for run in runs if run.result.method == BASELINE}
        by_label: defaultdict[str, list[Run]] = defaultdict(list)
        for run in runs:
            by_label[run.result.label].append(run)
        print(
            f"\n{folder.name}\n\n| controller | activations sent, % of fp16 | last loss, % | sum of rewards |"
        )
        print("| --- | ---: | ---: | ---: |")
        for label, same in by_label.items():
            losses = [100 * (run.result.eval.loss / base[run.result.seed] - 1) for run in same]
            rewards = [reward(run, arguments.price) for run in same]
            cells = (spread([percent_sent(run) for run in same], 1), spread(losses, 2), spread(rewards, 2))
            print(f"| {label} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
