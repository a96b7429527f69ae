"""What the rounds of a run will send and take over a link, from a trial on a part of its own first batches."""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from typing_extensions import override

from splitcom.config import Config, LinksConfig
from splitcom.data import Sample, Samples, lengths_of
from splitcom.errors import ConfigError
from splitcom.flows import AT_CUT, FLOWS
from splitcom.methods.need import Need, guessing_bytes, need_of_client
from splitcom.methods.run import completed
from splitcom.metrics.ledger import Ledger
from splitcom.parties.parts import Parts, begin_from_adapter, load_parts
from splitcom.parties.rows import FIRST_ROWS
from splitcom.parties.texts import Texts, load_texts
from splitcom.server.budget import Budget
from splitcom.server.observe import Observer, StepReport
from splitcom.simulation.simulation import Simulation
from splitcom.training.plan import num_kept
from splitcom.transports.link import Link, VirtualClock

_CLIENTS, _BATCHES, _ROUNDS = 3, 12, 3  # of the trial, at most; more rounds only if fronts rest for some
_HELD_OUT = 4  # batches of a client, at most


@dataclass(frozen=True)
class Cost:
    """What a round, or a part of it, sends and takes."""

    up_bytes: float = 0.0
    """Of all clients."""
    down_bytes: float = 0.0
    link_s: float = 0.0
    """Of the client that sends most."""
    computing_s: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.up_bytes + other.up_bytes,
            self.down_bytes + other.down_bytes,
            self.link_s + other.link_s,
            self.computing_s + other.computing_s,
        )


@dataclass(frozen=True)
class Forecast:
    """What the rounds of a run will send and take."""

    training: Sequence[Cost]
    """Of the rounds that were tried, from 1; later ones are like the last."""
    evaluations: Sequence[Cost]
    """Before training, and of the rounds that were tried; with the adapter, which clients get for it."""
    adapters: Sequence[Cost]
    """Of the adapter alone, which rounds begin with that come after one without an evaluation."""
    exact: Cost
    """Of the evaluation after the last round that no codec shortens; nothing if there is none."""
    num_rounds: int
    """Those of the run."""
    every: int
    """Rounds between two evaluations."""
    steps: int
    """That were tried."""
    data: str = ""
    """What is trained on, and which client has how much of it."""
    client: Need | None = None
    """What the client with the most samples needs of memory."""
    server_weights: int = 0
    """Bytes of the body's weights, which the server holds; 0 if nothing is split."""

    @property
    def num_tried(self) -> int:
        """Rounds that were tried."""
        return len(self.training)

    def of_round(self, index: int) -> Cost:
        """What a round will send and take; 0 is the evaluation before training.

        >>> one = Cost(up_bytes=1.0)
        >>> told = Forecast([one], [one, one], [one], Cost(up_bytes=5.0), num_rounds=4, every=2, steps=8)
        >>> [told.of_round(index).up_bytes for index in range(5)]
        [1.0, 1.0, 3.0, 1.0, 8.0]
        """
        like = min(index, self.num_tried)
        cost = self.training[like - 1] if index else Cost()
        if index > 1 and (index - 1) % self.every:
            cost += self.adapters[like - 1]
        if index % self.every == 0 or index == self.num_rounds:
            cost += self.evaluations[like]
        return cost + self.exact if index == self.num_rounds else cost


def forecast(config: Config, link: Link) -> Forecast:
    """Try a part of a run and tell what all of it will send and take: loads model and data, and trains for a while.

    Up to three clients train for up to three rounds on up to twelve of their first batches. Bytes at the cut grow by
    what later steps have sent, others by clients or held-out tokens; computing grows by tokens. Codecs that build on
    earlier visits send more the more has been learnt between two, so that rounds far longer than the trial's are
    underestimated. Latency is left out; so are all but the first rows of a large source. Raises what `train` raises.
    """
    config = completed(config, FIRST_ROWS)
    if not config.federation.waits_for_all:
        raise ConfigError(
            "--dry-run: with federation.deadline_s, over_select or asynchronous scheduling, rounds "
            "depend on the time that each step takes, and cannot be foretold; leave these out for the "
            "dry run"
        )
    texts = load_texts(config, FIRST_ROWS)
    of_clients = zip(config.client_names, texts.partition.parts, strict=True)
    names, groups = zip(*((name, group) for name, group in of_clients if group), strict=True)
    longest = max(int(lengths_of(group).max()) for group in groups)
    most = max(range(len(groups)), key=lambda index: len(groups[index]))
    client = need_of_client(config.of_client(names[most]), len(groups[most]), longest)
    tried = [
        group[: _BATCHES * config.of_client(name).training.batch_size]
        for name, group in zip(names[:_CLIENTS], groups, strict=False)
    ]
    evaluated = _evaluated(config, names, groups, texts.held_out.samples)
    held_out = evaluated[: _HELD_OUT * config.evaluation.batch_size * len(tried)]
    trial = _trial_of(config, names[: len(tried)])
    begin_from_adapter(parts := load_parts(trial), trial)
    trial_texts = Texts(
        replace(texts.partition, parts=tried), texts.train, replace(texts.held_out, samples=held_out)
    )
    watch = _Watch()
    with tempfile.TemporaryDirectory() as folder:
        simulation = Simulation(trial, trial_texts, parts, Path(folder), watch)
        with closing(simulation):
            rounds = watch.run(simulation)
    scale = _Scale.of(config, groups, tried, evaluated, held_out, link)
    return Forecast(
        training=[scale.training(one) for one in rounds[1:]],
        evaluations=[scale.before(rounds[0]), *(scale.evaluation(one) for one in rounds[1:])],
        adapters=[scale.adapter(one) for one in rounds[1:]],
        exact=scale.exact(rounds[-1]),
        num_rounds=config.training.rounds,
        every=config.evaluation.every,
        steps=sum(len(one.totals) for one in rounds),
        data=f"{texts.report}\n{texts.partition}",
        client=client,
        server_weights=_weights(parts, config) if config.training.split else 0,
    )


def _evaluated(
    config: Config, names: Sequence[str], groups: Sequence[Sequence[Sample]], held_out: Samples
) -> Samples:
    """As many of all clients' held-out samples as an evaluation is over."""
    sizes = {name: num_kept(len(group), config) for name, group in zip(names, groups, strict=True)}
    held = {name: len(held_out[index :: len(names)]) for index, name in enumerate(names)}
    rows = Budget.of(config).rows(sizes, {name: number for name, number in held.items() if number})
    return held_out[: sum(rows.values())]


def _weights(parts: Parts, config: Config) -> int:
    """Bytes of the body's weights, and of the front's blocks in fp32 if labels are run through them."""
    found = sum(tensor.nbytes for tensor in parts.body.parameters()) if parts.body is not None else 0
    return found + guessing_bytes(parts.front, config)


def _trial_of(config: Config, names: Sequence[str]) -> Config:
    """The configuration of a trial with these clients; what each has of its own it keeps, but for its link."""
    least = config.resting_rounds and config.resting_rounds + 2
    num_rounds = min(max(_ROUNDS, least), config.training.rounds)
    own = [config.clients.of(name).model_dump(exclude_none=True, exclude={"link"}) for name in names]
    return config.override(
        {**_TRIAL, "federation.clients": len(names), "training.rounds": num_rounds}
        | {"clients": {f"client-{index}": values for index, values in enumerate(own) if values}}
        | ({"engine.kind": "local"} if config.engine.kind == "ray" else {})
        # the first rounds of many have nearly the first rate
        | ({"training.schedule": "constant"} if num_rounds < config.training.rounds else {})
    )


_TRIAL: Mapping[str, Any] = {
    "federation.names": None,
    "federation.sample": 1.0,
    "federation.min_clients": 1,
    "links": {},
    "evaluation.every": 1,
    "evaluation.share": None,
    "training.patience": 0,
}


@dataclass(frozen=True)
class _Seconds:
    """Of the server, and of the clients, who work side by side."""

    server: float
    clients: float

    def __sub__(self, other: "_Seconds") -> "_Seconds":
        return _Seconds(self.server - other.server, self.clients - other.clients)


@dataclass(frozen=True)
class _Tried:
    """What the trial has of a round: a line for each client, bytes after each step, seconds."""

    lines: Sequence[Mapping[str, Any]]
    totals: Sequence[int]
    exact: float
    """The part of the evaluation's bytes that its second, exact pass has sent."""
    training: _Seconds
    evaluation: _Seconds


class _Watch(Observer):
    """Runs a trial and notes bytes and seconds at each step."""

    def __init__(self) -> None:
        self._clock = VirtualClock(LinksConfig())
        self._ledger = Ledger()
        self._totals: list[int] = []
        self._trained = _Seconds(0.0, 0.0)
        self._done = 0  # held-out samples in this pass
        self._evaluated = 0  # bytes of evaluations by then
        self._passed: int | None = None  # by the end of the first pass, if there is a second

    def run(self, simulation: Simulation) -> list[_Tried]:
        """The first evaluation, which comes before training, and the rounds."""
        self._clock, self._ledger = simulation.clock, simulation.federation.ledger
        tried, before, sent = [], _Seconds(0.0, 0.0), 0
        for lines in simulation.federation.run():
            now, trained = self._now(), self._trained if self._totals else before
            start, sent = sent, self._sent()
            exact = 0.0 if self._passed is None else (sent - self._passed) / (sent - start)
            tried.append(_Tried(lines, self._totals, exact, trained - before, now - trained))
            self._totals, self._done, self._passed, before = [], 0, None, now
        return tried

    @override
    def on_step(self, report: StepReport) -> None:
        self._totals.append(report.total_bytes)
        self._trained = self._now()

    @override
    def on_evaluation(self, round_index: int, done: int, total: int) -> None:
        if done < self._done:
            self._passed = self._evaluated
        self._done, self._evaluated = done, self._sent()

    def _sent(self) -> int:
        return sum(size for flow, size in self._ledger.totals().items() if flow in _of("evaluation", 1.0))

    def _now(self) -> _Seconds:
        server_s = self._clock.server_compute_s
        return _Seconds(server_s, self._clock.server_time_s - server_s)


@dataclass(frozen=True)
class _Scale:
    """How many times what the trial has is what the run has."""

    tokens: float
    """Of all clients in a round."""
    longest: float
    """Tokens of the client that has most."""
    largest_part: float
    """Of all that is sent in training: what this client sends."""
    taking_part: float
    """Clients in a round."""
    clients: float
    """All clients."""
    num_clients: int
    held_out: float
    """Tokens of all clients."""
    steps: float
    link: Link

    @classmethod
    def of(
        cls,
        config: Config,
        groups: Sequence[Sequence[Sample]],
        tried: Sequence[Sequence[Sample]],
        held_out: Sequence[Sample],
        held_out_tried: Sequence[Sample],
        link: Link,
    ) -> "_Scale":
        """Of a run with these clients' samples."""
        taking_part = max(1, round(config.federation.sample * len(groups)))
        tokens, largest = _tokens(*groups) * taking_part / len(groups), max(map(_tokens, groups))
        return cls(
            tokens=tokens / _tokens(*tried),
            longest=largest / max(map(_tokens, tried)),
            largest_part=largest / tokens,
            taking_part=taking_part / len(tried),
            clients=len(groups) / len(tried),
            num_clients=len(groups),
            held_out=_tokens(held_out) / max(_tokens(held_out_tried), 1),
            steps=max(map(len, groups)) / max(map(len, tried)),
            link=link,
        )

    def training(self, tried: _Tried) -> Cost:
        """The forecast of a round without its evaluation."""
        sent = _sent(tried.lines)
        at_cut = self._at_cut(sum(sent[flow] for flow in AT_CUT), tried.totals)
        factors = dict.fromkeys(FLOWS, self.tokens) | dict.fromkeys(AT_CUT, at_cut)
        factors |= _of("adapter", self.taking_part) | _of("evaluation", 0.0) | _of("adapter", 0.0, "down")
        up, down = _directions(tried.lines, factors)
        seconds = tried.training.server * self.tokens + tried.training.clients * self.longest
        return Cost(up, down, self.link.seconds(up * self.largest_part, down * self.largest_part), seconds)

    def before(self, tried: _Tried) -> Cost:
        """The forecast of the first evaluation, with the adapter that clients get for it."""
        return self._held_out(tried, dict.fromkeys(FLOWS, self.clients), 1.0)

    def evaluation(self, tried: _Tried) -> Cost:
        """The forecast of an evaluation after a round, without what training sends."""
        return self._held_out(tried, _of("adapter", self.clients, "down"), 1 - tried.exact)

    def adapter(self, tried: _Tried) -> Cost:
        """The forecast of the adapter that a round begins with."""
        up, down = _directions(tried.lines, _of("adapter", self.taking_part, "down"))
        part = 1 / (self.taking_part * self.num_clients / self.clients)
        return Cost(up, down, self.link.seconds(up * part, down * part))

    def _held_out(self, tried: _Tried, others: Mapping[str, float], part: float) -> Cost:
        """A part of an evaluation, and other flows times a factor."""
        up, down = _directions(tried.lines, {**others, **_of("evaluation", part * self.held_out)})
        link_s = self.link.seconds(up / self.num_clients, down / self.num_clients)
        server_s, of_client_s = tried.evaluation.server, tried.evaluation.clients / self.clients
        passes = 2 if tried.exact else 1
        return Cost(up, down, link_s, (server_s + of_client_s) * self.held_out / passes)

    def exact(self, tried: _Tried) -> Cost:
        """The forecast of the last evaluation's second pass; it takes the computing of the first."""
        return self._held_out(tried, {}, tried.exact)

    def _at_cut(self, sent: int, totals: Sequence[int]) -> float:
        """By which factor the bytes at the cut grow: what is sent once does not, and the first steps send it."""
        later = [new - old for old, new in pairwise(totals)]
        if not sent or len(later) < 2:
            return self.tokens
        usual = min(mean(later[len(later) // 2 :]), sent / len(totals))
        more = (self.steps - 1) * len(totals) * usual
        return (sent + more) / sent * self.tokens / self.steps


def _of(content: str, factor: float, direction: str | None = None) -> dict[str, float]:
    """A factor for the flows that carry this, of one direction or all."""
    return {
        name: factor
        for name, flow in FLOWS.items()
        if flow.content == content and direction in (None, flow.direction)
    }


def _sent(lines: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Bytes of all clients by flow, up and down."""
    sent = Counter[str]()
    for line in lines:
        sent.update(line["bytes"])
    return sent


def _directions(lines: Sequence[Mapping[str, Any]], factors: Mapping[str, float]) -> tuple[float, float]:
    """Bytes up and down of flows that become so many times as large; those that go both ways are parted as they are."""
    sent = _sent(lines)
    up, down = (
        [flow for flow in FLOWS if FLOWS[flow].direction == direction] for direction in ("up", "down")
    )
    both = FLOWS.keys() - {*up, *down}
    going_up = (sent["up"] - sum(sent[flow] for flow in up)) / max(sum(sent[flow] for flow in both), 1)
    whole = {flow: sent[flow] * factors.get(flow, 0.0) for flow in FLOWS}
    to_both = sum(whole[flow] for flow in both)
    return (
        sum(whole[flow] for flow in up) + to_both * going_up,
        sum(whole[flow] for flow in down) + to_both * (1 - going_up),
    )


def _tokens(*groups: Sequence[Sample]) -> int:
    return sum(int(lengths_of(group).sum()) for group in groups)
