"""What server and client show in a terminal while they run; plain lines if it is none."""

import logging
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Self

from splitcom.foreign import JsonFormatter, LogFormatter
from splitcom.methods.join import Check
from splitcom.methods.monitor import Monitor
from splitcom.report.live import Rates, clients_table, headline
from splitcom.report.terminal import Group, RenderableType, Terminal, TerminalLog, line, live_page
from splitcom.server.observe import StepReport

_LOG = logging.getLogger("splitcom")
_LINE_S = 10.0  # between two lines of progress if there is no terminal


def log_to(terminal: Terminal, log_format: str = "text") -> None:
    """Show the package's log: above a live page in a terminal, else as lines with a time; or as JSON, to stderr."""
    handler: logging.Handler
    if log_format == "json":
        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter())
    elif terminal.is_terminal:
        handler = TerminalLog(terminal)
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(message)s"))
    for other in [*_LOG.handlers]:  # of --log-level, whose level stays
        _LOG.removeHandler(other)
    _LOG.addHandler(handler)
    if _LOG.level == logging.NOTSET:
        _LOG.setLevel(logging.INFO)
    _LOG.propagate = False


class StatusPage(Monitor):
    """A monitor that shows itself; a context manager."""

    def __init__(self, rounds: int, terminal: Terminal, *, is_json: bool = False) -> None:
        super().__init__(rounds)
        self._terminal = terminal.is_terminal and not is_json
        self._last_line = 0.0
        self._rates = Rates()
        self._live = live_page(terminal, self._render)

    def __enter__(self) -> Self:
        if self._terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._terminal:
            self._live.stop()

    def on_step(self, report: StepReport) -> None:
        """Log a line from time to time, if there is no page."""
        super().on_step(report)
        if not self._terminal and monotonic() - self._last_line > _LINE_S:
            self._last_line = monotonic()
            _LOG.info("%s", headline(self.snapshot()))

    def on_round(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Log the round."""
        super().on_round(lines)
        snapshot = self.snapshot()
        loss = "" if snapshot.held_out_loss is None else f", held-out loss {snapshot.held_out_loss:.4f}"
        accuracy = snapshot.held_out_accuracy
        right = "" if accuracy is None else f", accuracy {accuracy:.1%}"
        _LOG.info("round %d of %d is done%s%s", snapshot.round, snapshot.rounds, loss, right)

    def _render(self) -> RenderableType:
        snapshot = self.snapshot()
        return Group(line(headline(snapshot), "bold"), clients_table(snapshot, self._rates.of(snapshot)))


def print_check(terminal: Terminal, check: Check) -> None:
    """Print what a client that would join has found, and what would leave it."""
    link = check.link
    for key, value in (
        ("client", check.client),
        ("server", f"splitcom {check.package_version}, method {check.config.method}"),
        ("weights", check.weights),
        *check.disclosure,
        ("round trip", f"{link.round_trip_s * 1e3:.1f} ms"),
        ("up", f"{link.up_bps / 1e6:.1f} Mbit/s"),
        ("down", f"{link.down_bps / 1e6:.1f} Mbit/s"),
    ):
        terminal.say(f"{key:11}{value}")
    for warning in check.warnings:
        terminal.say(f"warning: {warning}", "yellow")
