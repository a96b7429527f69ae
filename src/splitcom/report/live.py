"""A run in the terminal as far as it has come: a line per round, and where its bytes went."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean

from splitcom.flows import FLOWS, SUMS
from splitcom.report.folder import METRICS, ClientRound, load_metrics
from splitcom.report.format import format_bytes, format_percent
from splitcom.report.tables import NONE
from splitcom.report.terminal import Table
from splitcom.server.peers import Standing
from splitcom.server.waits import describe


def progress_table(folder: Path, num_rounds: int, last: int = 20) -> Table:
    """Build a table of the last rounds of a run that may still be running; raises RunError as `load_run` does.

    Losses in nats per token, means over the clients; thresholds and shares of skipped samples of each flow that has
    a threshold, in the flows' order.
    """
    metrics = load_metrics(folder) if (folder / METRICS).exists() else []
    rounds = [list(lines) for _, lines in groupby(metrics, key=lambda line: line.round)]
    flows = {flow: _sum(metrics, flow) for flow in FLOWS}
    table = Table(
        title=f"{folder.resolve().name}: round {metrics[-1].round if metrics else 0} of {num_rounds}",
        caption=", ".join(f"{flow} {format_bytes(size)}" for flow, size in flows.items() if size),
    )
    for name in ("round", "loss", "held-out", "threshold", "skipped", *SUMS):
        table.add_column(name, justify="right", no_wrap=True)
    for lines in rounds[-last:]:
        table.add_row(
            str(lines[0].round),
            _mean_loss(line.loss for line in lines),
            _mean_loss(line.eval_loss for line in lines),
            _per_flow(lines, lambda line: line.threshold, "{:.4g}".format),
            _per_flow(lines, lambda line: line.skip_ratio, format_percent),
            *(format_bytes(_sum(lines, key)) for key in SUMS),
        )
    if rounds:
        table.add_section()
        table.add_row("all", *[""] * 4, *(format_bytes(_sum(metrics, key)) for key in SUMS))
    return table


def standing_cells(standing: Standing | None) -> tuple[str, str]:
    """What a client is at, and for how long its message is due."""
    if standing is None:
        return NONE, NONE
    return describe(standing), NONE if standing.waited_s is None else f"{standing.waited_s:.0f} s"


def _sum(lines: Iterable[ClientRound], key: str) -> int:
    return sum(line.bytes.get(key, 0) for line in lines)


def _mean_loss(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):.3f}" if known else NONE


def _per_flow(
    lines: Sequence[ClientRound],
    values: Callable[[ClientRound], Mapping[str, float | None]],
    form: Callable[[float], str],
) -> str:
    means = []
    for flow in FLOWS:
        if any(line.threshold.get(flow) is not None for line in lines):
            known = [value for line in lines if (value := values(line).get(flow)) is not None]
            means += [form(fmean(known))] if known else []
    return " | ".join(means) or NONE
