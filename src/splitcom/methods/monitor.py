"""What a server's operator can see of a run while it lasts: one snapshot, as Prometheus text, over HTTP.

GET /metrics    counts and gauges in the text format of Prometheus
GET /healthz    200 while the server runs, with the round it is in
GET /readyz     200 when clients can take part, with whom the run waits for; 503 before
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from splitcom.methods.pages import Answer, Pages, address_of
from splitcom.server.observe import Observer, StepReport
from splitcom.server.peers import Standing
from splitcom.server.waits import Missing, describe
from splitcom.transports.grpc_server import ClientTraffic, GrpcServer

_Family = tuple[str, str, str, Sequence[tuple[Mapping[str, str], float | None]]]  # name, kind, help, samples


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
    save_age_s: float | None = None  # since all state was last on the disk
    step_seconds: Mapping[str, float] = field(default_factory=dict)  # of the last step, by phase
    phase_seconds: Mapping[str, float] = field(default_factory=dict)  # of all steps since the start
    waiting_events: int = 0  # that have come from clients and that training has not taken
    refusals: Mapping[str, int] = field(default_factory=dict)  # of connections, by reason
    clients: Mapping[str, ClientTraffic] = field(default_factory=dict)
    standings: Mapping[str, Standing] = field(default_factory=dict)
    missing: Missing | None = None  # clients without whom no round begins
    is_ready: bool = False  # clients can take part
    against_others: Mapping[str, Mapping[str, float]] = field(
        default_factory=dict
    )  # of the last round, by client
    unlike: Mapping[str, int] = field(
        default_factory=dict
    )  # in how many of these a client is far from the others

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Snapshot":
        """One that has been a tree of plain values.

        >>> from dataclasses import asdict
        >>> traffic = ClientTraffic(connected=True, up_bytes=1, down_bytes=2, reconnections=0)
        >>> missing = Missing(1, 2, 75.0, ["a"])
        >>> snapshot = Snapshot(2, standings={"a": Standing("idle")}, missing=missing, clients={"a": traffic})
        >>> Snapshot.of(asdict(snapshot)) == snapshot
        True
        """
        clients = {name: ClientTraffic(**kept) for name, kept in fields["clients"].items()}
        standings = {name: Standing(**kept) for name, kept in fields["standings"].items()}
        missing = None if fields.get("missing") is None else Missing(**fields["missing"])
        return cls(**{**fields, "clients": clients, "standings": standings, "missing": missing})

    def waiting(self) -> str:
        """Whom the run waits for, longest first; empty if for nobody.

        >>> Snapshot(rounds=1, standings={"a": Standing("training", 75.0), "b": Standing("idle")}).waiting()
        'waiting for a for 75 s (training)'
        """
        if self.missing is not None:
            return str(self.missing)
        owing = {name: s for name, s in self.standings.items() if s.waited_s is not None}
        longest = sorted(owing.items(), key=lambda item: -(item[1].waited_s or 0.0))
        said = [f"{name} for {s.waited_s:.0f} s ({describe(s)})" for name, s in longest]
        return f"waiting for {', '.join(said)}" if said else ""


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
        self._standings: Callable[[], Mapping[str, Standing]] | None = None
        self._missing: Callable[[], Missing | None] = lambda: None
        self._saved_at: float | None = None
        self._against_others: Mapping[str, Mapping[str, float]] = {}
        self._unlike: Mapping[str, int] = {}
        self._phase_s: dict[str, float] = {}

    def on_begin(self, standings: Callable[[], Mapping[str, Standing]]) -> None:
        """Remember whom to ask."""
        self._standings = standings

    def on_gather(self, missing: Callable[[], Missing | None]) -> None:
        """Remember whom to ask."""
        self._missing = missing

    def on_saved(self, round_index: int) -> None:
        """Remember when."""
        self._saved_at = monotonic()

    def watch(self, server: GrpcServer) -> None:
        """Include what this server knows of its clients."""
        self._server = server

    def on_step(self, report: StepReport) -> None:
        """Remember the step."""
        self._report, self._round = report, report.round
        for phase, seconds in report.seconds.items():
            self._phase_s[phase] = self._phase_s.get(phase, 0.0) + seconds

    def on_round(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Remember the held-out loss and accuracy, and how clients lie among the others."""
        self._against_others = {line["client"]: line.get("against_others", {}) for line in lines}
        self._unlike = {line["client"]: len(line.get("unlike", [])) for line in lines}
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
            save_age_s=None if self._saved_at is None else monotonic() - self._saved_at,
            step_seconds={} if report is None else report.seconds,
            phase_seconds=dict(self._phase_s),
            waiting_events=0 if self._server is None else self._server.waiting_events,
            refusals={} if self._server is None else dict(self._server.refusals),
            standings={} if self._standings is None else self._standings(),
            missing=self._missing(),
            is_ready=self._server is not None and self._standings is not None,
            clients={} if self._server is None else self._server.traffic(),
            against_others=self._against_others,
            unlike=self._unlike,
        )


def prometheus(snapshot: Snapshot) -> bytes:
    """A snapshot in the text format of Prometheus.

    >>> prometheus(Snapshot(rounds=5, round=2)).decode().splitlines()[2]
    'splitcom_round 2.0'
    """
    registry = CollectorRegistry()
    registry.register(_Snapshots(snapshot))
    return generate_latest(registry)


class _Snapshots(Collector):
    """Hands one snapshot's metrics to Prometheus' client; those without a value are left out."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Make the families that have samples."""
        for name, kind, help_text, samples in _families(self._snapshot):
            family = Metric(name.removesuffix("_total"), help_text, kind)
            for labels, value in samples:
                if value is not None:
                    family.add_sample(name, dict(labels), value)
            if family.samples:
                yield family


def _families(snapshot: Snapshot) -> Iterator[_Family]:
    for name, kind, help_text, value in (
        ("splitcom_round", "gauge", "Round in progress.", snapshot.round),
        ("splitcom_rounds", "gauge", "Rounds of the run.", snapshot.rounds),
        ("splitcom_step", "gauge", "Optimisation steps of this round.", snapshot.step),
        ("splitcom_loss_nats", "gauge", "Training loss of the last step, per token.", snapshot.loss),
        ("splitcom_held_out_loss_nats", "gauge", "Held-out loss, per token.", snapshot.held_out_loss),
        ("splitcom_held_out_accuracy", "gauge", "Held-out classes told right.", snapshot.held_out_accuracy),
        ("splitcom_skip_ratio", "gauge", "Activations of the last step not sent.", snapshot.skip_ratio),
        ("splitcom_bytes_total", "counter", "Message bytes of all flows.", snapshot.total_bytes),
        ("splitcom_uptime_seconds", "gauge", "Seconds since the server was started.", snapshot.uptime_s),
        ("splitcom_save_age_seconds", "gauge", "Seconds since all was saved.", snapshot.save_age_s),
        ("splitcom_waiting_events", "gauge", "From clients, not taken yet.", snapshot.waiting_events),
    ):
        yield name, kind, help_text, [({}, value)]
    for name, kind, help_text, label, values in (
        ("splitcom_threshold", "gauge", "What a controller has set.", "flow", snapshot.thresholds),
        ("splitcom_step_seconds", "gauge", "What the last step took.", "phase", snapshot.step_seconds),
        ("splitcom_phase_seconds_total", "counter", "What steps took.", "phase", snapshot.phase_seconds),
        ("splitcom_refusals_total", "counter", "Connections refused.", "reason", snapshot.refusals),
    ):
        yield name, kind, help_text, [({label: key}, value) for key, value in values.items()]
    clients, standings = snapshot.clients.items(), snapshot.standings.items()
    counts: list[tuple[str, str, str, Callable[[ClientTraffic], float]]] = [
        ("connected", "gauge", "Whether the client is connected.", lambda c: c.connected),
        ("up_bytes_total", "counter", "Message bytes from the client.", lambda c: c.up_bytes),
        ("down_bytes_total", "counter", "Message bytes to the client.", lambda c: c.down_bytes),
        ("reconnections_total", "counter", "Connections made again.", lambda c: c.reconnections),
        ("unread_messages", "gauge", "Messages from it, not taken yet.", lambda c: c.unread),
        ("unacknowledged_messages", "gauge", "Messages it has not got yet.", lambda c: c.unacknowledged),
        ("answer_seconds_total", "counter", "Between a message to it and its answer.", lambda c: c.answer_s),
    ]
    for name, kind, help_text, count_of in counts:
        samples = [({"client": client}, float(count_of(traffic))) for client, traffic in clients]
        yield f"splitcom_client_{name}", kind, help_text, samples
    of_standing: list[tuple[str, str, str, Callable[[Standing], float]]] = [
        ("waited_seconds", "gauge", "For how long its message is due.", lambda s: s.waited_s or 0.0),
        ("restarts_total", "counter", "Times it began anew in the middle.", lambda s: s.restarts),
        ("refused_total", "counter", "Times it said what it must not.", lambda s: s.refusals),
    ]
    for name, kind, help_text, value_of in of_standing:
        values_of = [({"client": client}, value_of(standing)) for client, standing in standings]
        yield f"splitcom_client_{name}", kind, help_text, values_of
    yield from _among_others(snapshot)
    states = [({"client": client, "state": standing.state}, 1) for client, standing in standings]
    yield "splitcom_client_state", "gauge", "What the client is at.", states


def _among_others(snapshot: Snapshot) -> Iterator[_Family]:
    """How clients lie among the others: `server/outliers.py` says what is compared."""
    against = snapshot.against_others.items()
    compared = [({"client": client, "what": kind}, v) for client, own in against for kind, v in own.items()]
    yield "splitcom_client_against_others", "gauge", "Last round, beside the others' median.", compared
    unlike = [({"client": client}, number) for client, number in snapshot.unlike.items()]
    yield "splitcom_client_unlike", "gauge", "In how many of these it is far from the others.", unlike


def monitor_pages(snapshot: Callable[[], Snapshot], address: str) -> Pages:
    """Serve snapshots to whoever watches servers; `address` as the option --metrics has it."""

    def readiness() -> Answer:
        now = snapshot()
        if not now.is_ready:
            return Answer(b"not ready yet\n", status=503)
        return Answer(f"ready: {now.waiting() or f'round {now.round}'}\n".encode())

    routes = {
        "/metrics": lambda: Answer(prometheus(snapshot()), CONTENT_TYPE_LATEST),
        "/healthz": lambda: Answer(f"ok round {snapshot().round}\n".encode()),
        "/readyz": readiness,
    }
    return Pages(routes, address_of(address, "--metrics"), "--metrics")
