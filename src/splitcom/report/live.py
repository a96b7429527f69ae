"""A run in the terminal as far as it has come: a line per round, where its bytes went, who is at what."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from time import monotonic

from splitcom.amount import counted
from splitcom.flows import FLOWS, SUMS
from splitcom.methods.monitor import Snapshot
from splitcom.report.folder import METRICS, ClientRound, load_metrics
from splitcom.report.format import format_bytes, format_percent, format_thresholds
from splitcom.report.tables import NONE
from splitcom.report.terminal import Table, line
from splitcom.server.peers import Standing
from splitcom.server.waits import describe, since
from splitcom.transports.grpc_server import ClientTraffic


def progress_table(folder: Path, num_rounds: int, last: int = 20) -> Table:
    """Build a table of the last rounds of a run that may still be running; raises RunError as `load_run` does.

    Clients that were far from the others in a round are named, if there are any.

    Losses in nats per token, means over the clients; thresholds and shares of skipped samples of each flow that has
    a threshold, in the flows' order.
    """
    metrics = load_metrics(folder, may_go_on=True) if (folder / METRICS).exists() else []
    rounds = [list(lines) for _, lines in groupby(metrics, key=lambda line: line.round)]
    flows = {flow: _sum(metrics, flow) for flow in FLOWS}
    table = Table(
        title=f"{folder.resolve().name}: round {metrics[-1].round if metrics else 0} of {num_rounds}",
        caption=", ".join(f"{flow} {format_bytes(size)}" for flow, size in flows.items() if size),
    )
    for name in ("round", "loss", "held-out", "threshold", "skipped", *SUMS):
        table.add_column(name, justify="right", no_wrap=True)
    shown = rounds[-last:]
    names_clients = any(line.unlike for lines in shown for line in lines)
    if names_clients:
        table.add_column("unlike the others")
    for lines in shown:
        table.add_row(
            str(lines[0].round),
            _mean_loss(line.loss for line in lines),
            _mean_loss(line.eval_loss for line in lines),
            _per_flow(lines, lambda line: line.threshold, "{:.4g}".format),
            _per_flow(lines, lambda line: line.skip_ratio, format_percent),
            *(format_bytes(_sum(lines, key)) for key in SUMS),
            *([", ".join(str(line.client) for line in lines if line.unlike)] if names_clients else []),
        )
    if rounds:
        table.add_section()
        table.add_row("all", *[""] * 4, *(format_bytes(_sum(metrics, key)) for key in SUMS))
    return table


def round_lines(folder: Path, num_rounds: int) -> list[str]:
    """A line for each round that has ended, as `progress_table` has its rows; raises RunError as it does."""
    metrics = load_metrics(folder, may_go_on=True) if (folder / METRICS).exists() else []
    said, total = [], 0
    for number, of_round in groupby(metrics, key=lambda line: line.round):
        lines = list(of_round)
        total += _sum(lines, "total")
        trained, held_out = (
            _mean_loss(getattr(line, kind) for line in lines) for kind in ("loss", "eval_loss")
        )
        said.append(
            f"round {number} of {num_rounds}  loss {trained}  held-out loss {held_out}  {format_bytes(total)}"
        )
    return said


def headline(snapshot: Snapshot) -> str:
    """Where a run is that has a server, what its last step took by phase, and when it was last saved."""
    loss = "" if snapshot.loss is None else f"  loss {snapshot.loss:.3f}"
    connected = sum(client.connected for client in snapshot.clients.values())
    step = "".join(f"  {phase} {seconds:.2f} s" for phase, seconds in snapshot.step_seconds.items())
    saved = "" if snapshot.save_age_s is None else f"  saved {snapshot.save_age_s:.0f} s ago"
    refused = sum(snapshot.refusals.values())
    return (
        f"round {snapshot.round}/{snapshot.rounds}  step {snapshot.step}/{snapshot.num_steps}{loss}  "
        f"skipped {snapshot.skip_ratio:.0%}{format_thresholds(snapshot.thresholds)}  "
        f"{format_bytes(snapshot.total_bytes)}  {counted(connected, 'client')} connected{step}{saved}"
        + (f"  {counted(refused, 'connection')} refused" if refused else "")
    )


class Rates:
    """Bytes per second of each client, both ways, between two looks that are a second or more apart."""

    def __init__(self) -> None:
        self._before: tuple[float, Mapping[str, int]] | None = None
        self._rates: Mapping[str, float] = {}

    def of(self, snapshot: Snapshot) -> Mapping[str, float]:
        """Those up to this look."""
        now = monotonic()
        totals = {name: one.up_bytes + one.down_bytes for name, one in snapshot.clients.items()}
        then, before = self._before or (now, totals)
        if now - then >= 1.0:
            self._rates = {
                name: (total - before.get(name, 0)) / (now - then) for name, total in totals.items()
            }
        if now - then >= 1.0 or self._before is None:
            self._before = now, totals
        return self._rates


def clients_table(snapshot: Snapshot, rates: Mapping[str, float] | None = None) -> Table:
    """What each client is at, since when it is waited for, and its traffic; `rates` in bytes per second."""
    table = Table()
    heads, rows = client_rows(snapshot, rates)
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place < 3 else "right", no_wrap=place == 2)
    for name, *cells in rows:
        client = snapshot.clients.get(name)
        table.add_row(line(name, "" if client is not None and client.connected else "red"), *cells)
    return table


def client_rows(
    snapshot: Snapshot, rates: Mapping[str, float] | None = None
) -> tuple[list[str], list[list[str]]]:
    """The columns' names and a row for each client, as `clients_table` has them; the first three are texts."""
    heads = [
        "client",
        "is",
        "waited for",
        "up",
        "down",
        *(() if rates is None else ("per second",)),
        "trouble",
    ]
    rows = []
    for name in sorted(snapshot.clients.keys() | snapshot.standings.keys()):
        client = snapshot.clients.get(name, ClientTraffic(False, 0, 0, 0))
        standing = snapshot.standings.get(name)
        cells = [
            name,
            *standing_cells(standing),
            format_bytes(client.up_bytes),
            format_bytes(client.down_bytes),
        ]
        if rates is not None:
            cells.append(format_bytes(int(rates.get(name, 0))) if client.connected else NONE)
        rows.append([*cells, _trouble(client, standing)])
    return heads, rows


def _trouble(client: ClientTraffic, standing: Standing | None) -> str:
    counts = {"reconnections": client.reconnections}
    if standing is not None:
        counts |= {"restarts": standing.restarts, "refusals": standing.refusals}
    said = (f"{count} {what[: -(count == 1) or None]}" for what, count in counts.items() if count)
    return ", ".join(said) or NONE


def standing_cells(standing: Standing | None) -> tuple[str, str]:
    """What a client is at, and since when its message is due."""
    if standing is None:
        return NONE, NONE
    return describe(standing), NONE if standing.waited_s is None else since(standing.waited_s)


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
