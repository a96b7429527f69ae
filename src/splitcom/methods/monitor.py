"""What a server's operator can see of a run while it lasts: one snapshot, as Prometheus text, over HTTP.

GET /metrics    counts and gauges in the text format of Prometheus
GET /healthz    200 while the server runs, with the round it is in
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any

from splitcom.errors import RunError
from splitcom.server.observe import Observer, StepReport
from splitcom.transports.grpc_server import ClientTraffic, GrpcServer

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Snapshot:
    """Where a run stands. Losses are in nats per token (classes: per sample); None before there is one."""

    rounds: int
    round: int = 0
    step: int = 0
    num_steps: int = 0
    loss: float | None = None
    held_out_loss: float | None = None
    held_out_accuracy: float | None = None  # of classes
    skip_ratio: float = 0.0
    thresholds: Mapping[str, float] = field(default_factory=dict)
    total_bytes: int = 0
    uptime_s: float = 0.0
    clients: Mapping[str, ClientTraffic] = field(default_factory=dict)


class Monitor(Observer):
    """Remembers the last that it was told; `snapshot` may be called from any thread."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._server: GrpcServer | None = None
        self._started = monotonic()
        self._report: StepReport | None = None
        self._round = 0
        self._held_out_loss: float | None = None
        self._held_out_accuracy: float | None = None

    def watch(self, server: GrpcServer) -> None:
        """Include what this server knows of its clients."""
        self._server = server

    def on_step(self, report: StepReport) -> None:
        """Remember the step."""
        self._report, self._round = report, report.round

    def on_round(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Remember the held-out loss and accuracy."""
        for line in lines:
            self._round = line["round"]
            if line["eval_loss"] is not None:
                self._held_out_loss, self._held_out_accuracy = line["eval_loss"], line.get("eval_accuracy")

    def snapshot(self) -> Snapshot:
        """Where the run stands now."""
        report = self._report
        return Snapshot(
            rounds=self._rounds,
            round=self._round,
            step=0 if report is None else report.step,
            num_steps=0 if report is None else report.num_steps,
            loss=None if report is None else report.loss,
            held_out_loss=self._held_out_loss,
            held_out_accuracy=self._held_out_accuracy,
            skip_ratio=0.0 if report is None else report.skip_ratio,
            thresholds={} if report is None else report.thresholds,
            total_bytes=0 if report is None else report.total_bytes,
            uptime_s=monotonic() - self._started,
            clients={} if self._server is None else self._server.traffic(),
        )


def prometheus(snapshot: Snapshot) -> str:
    """A snapshot in the text format of Prometheus.

    >>> print(prometheus(Snapshot(rounds=5, round=2)).splitlines()[2])
    splitcom_round 2
    """
    return "".join(f"{line}\n" for line in _lines(snapshot))


def _lines(snapshot: Snapshot) -> Iterator[str]:
    values: list[tuple[str, str, str, float | None]] = [
        ("splitcom_round", "gauge", "Round in progress.", snapshot.round),
        ("splitcom_rounds", "gauge", "Rounds of the run.", snapshot.rounds),
        ("splitcom_step", "gauge", "Optimisation steps of this round.", snapshot.step),
        ("splitcom_loss_nats", "gauge", "Training loss of the last step, per token.", snapshot.loss),
        ("splitcom_held_out_loss_nats", "gauge", "Held-out loss, per token.", snapshot.held_out_loss),
        ("splitcom_held_out_accuracy", "gauge", "Held-out classes told right.", snapshot.held_out_accuracy),
        ("splitcom_skip_ratio", "gauge", "Activations of the last step not sent.", snapshot.skip_ratio),
        ("splitcom_bytes_total", "counter", "Message bytes, evaluation not included.", snapshot.total_bytes),
        ("splitcom_uptime_seconds", "counter", "Seconds since the server was started.", snapshot.uptime_s),
    ]
    for name, kind, help_text, value in values:
        if value is not None:
            yield from (f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", f"{name} {value:.12g}")
    if snapshot.thresholds:
        yield from (
            "# HELP splitcom_threshold What a controller has set.",
            "# TYPE splitcom_threshold gauge",
        )
    for flow, threshold in snapshot.thresholds.items():
        yield f'splitcom_threshold{{flow="{flow}"}} {threshold:.12g}'
    per_client: list[tuple[str, str, str, Callable[[ClientTraffic], int]]] = [
        ("splitcom_client_connected", "gauge", "Whether the client is connected.", lambda c: c.connected),
        ("splitcom_client_up_bytes_total", "counter", "Message bytes from the client.", lambda c: c.up_bytes),
        (
            "splitcom_client_down_bytes_total",
            "counter",
            "Message bytes to the client.",
            lambda c: c.down_bytes,
        ),
        (
            "splitcom_client_reconnections_total",
            "counter",
            "Connections made again.",
            lambda c: c.reconnections,
        ),
    ]
    for name, kind, help_text, value_of in per_client:
        yield from (f"# HELP {name} {help_text}", f"# TYPE {name} {kind}")
        for client, traffic in snapshot.clients.items():
            label = client.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
            yield f'{name}{{client="{label}"}} {int(value_of(traffic))}'


class MonitorPage:
    """Serves snapshots over HTTP on this machine alone, from a thread of its own; a context manager.

    Raises RunError where the port is taken. `port` is the one it got where 0 was asked for.
    """

    def __init__(self, snapshot: Callable[[], Snapshot], port: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(200, prometheus(snapshot()))
                elif self.path == "/healthz":
                    self._answer(200, f"ok round {snapshot().round}\n")
                else:
                    self._answer(404, "there is /metrics and /healthz\n")

            def _answer(self, status: int, text: str) -> None:
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", _CONTENT_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: Any) -> None:
                """Say nothing: a scrape every few seconds is no news."""

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise RunError(f"--metrics-port {port}: {error.strerror or error}; choose another") from error
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="monitor", daemon=True)
        self._thread.start()

    def __enter__(self) -> "MonitorPage":
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
