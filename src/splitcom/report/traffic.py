"""What a page's script needs to time a run's traffic on a link: bytes and exchanges of each round."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from splitcom.flows import AT_CUT, FLOWS
from splitcom.report.folder import ClientRound, Run
from splitcom.report.format import format_bytes
from splitcom.report.summary import Row

Rounds = list[tuple[int, int, int]]
"""Of each round: bytes up, bytes down and exchanges of the client with the most of each."""

SLIDERS = (
    ("up", "Up", "Mbit/s", -1.0, 4.0, 1.0),
    ("down", "Down", "Mbit/s", -1.0, 4.0, 2.0),
    ("latency", "Latency", "ms", 0.0, 3.0, 1.3),
)

EXPLANATION = (
    "Transfer alone, without computing: every round takes as long as its client with the most bytes, each exchange two "
    "latencies, and rounds follow one another. Move the sliders, or open the page with #up=1&down=10&latency=50."
)


def rounds_of(metrics: Sequence[ClientRound], *, uncompressed: bool = False) -> Rounds:
    """Collect a run's rounds; `uncompressed` for the same run uncompressed (fp16)."""
    found = []
    for _, lines in groupby(metrics, key=lambda line: line.round):
        of_round = list(lines)
        sizes = [line.uncompressed_bytes if uncompressed else line.bytes for line in of_round]
        # In the U-shape, hidden states come back before the gradients go up.
        twice = any(size.get(flow) for size in sizes for flow in AT_CUT if FLOWS[flow].cut == "tail")
        steps = max(line.steps for line in of_round)
        batches = max(line.held_out_batches for line in of_round)
        up, down = (max(size.get(key, 0) for size in sizes) for key in ("up", "down"))
        exchanges = (
            1 + steps * (2 if twice else 1) + batches + (1 if batches else 0)
        )  # a start, and batch by batch
        found.append((up, down, exchanges if up or down else 0))
    return found


def of_run(run: Run) -> list[dict[str, object]]:
    """The run and, beside it, what it would have sent with fp16 flows."""
    names = (run.result.label, "the same uncompressed (fp16)")
    seeds = [rounds_of(run.metrics), rounds_of(run.metrics, uncompressed=True)]
    return [
        {"label": name, "title": name, "seeds": [rounds]} for name, rounds in zip(names, seeds, strict=True)
    ]


def of_comparison(rows: Iterable[Row], runs: Sequence[Run]) -> list[dict[str, object]]:
    """Each method with its seeds that have metrics."""
    return [
        {
            "label": row.label,
            "title": f"{row.label}: loss {row.loss.mean:.4f}, {format_bytes(row.total.mean)}",
            "seeds": [
                rounds_of(run.metrics) for run in runs if run.result.label == row.label and run.metrics
            ],
        }
        for row in rows
    ]
