"""From what a trial of a run has sent and taken to what the whole run will; knows no simulation."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import mean
from typing import Any

from splitcom.config import Config
from splitcom.data import Sample, lengths_of
from splitcom.flows import AT_CUT, FLOWS
from splitcom.transports.link import Link


@dataclass(frozen=True)
class Cost:
    """What a round, or a part of it, sends and takes."""

    up_bytes: float = 0.0
    """Of all clients."""
    down_bytes: float = 0.0
    link_s: float = 0.0
    """Of the client that sends most."""
    computing_s: float = 0.0
    flows: Mapping[str, float] = field(default_factory=dict)
    """Bytes by flow, both ways."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.up_bytes + other.up_bytes,
            self.down_bytes + other.down_bytes,
            self.link_s + other.link_s,
            self.computing_s + other.computing_s,
            {
                flow: self.flows.get(flow, 0.0) + other.flows.get(flow, 0.0)
                for flow in {**self.flows, **other.flows}
            },
        )


@dataclass(frozen=True)
class Seconds:
    """Of the server, and of the clients, who work side by side."""

    server: float
    clients: float

    def __sub__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.server - other.server, self.clients - other.clients)


@dataclass(frozen=True)
class Tried:
    """What the trial has of a round: a line for each client, bytes after each step, seconds."""

    lines: Sequence[Mapping[str, Any]]
    totals: Sequence[int]
    exact: float
    """The part of the evaluation's bytes that its second, exact pass has sent."""
    training: Seconds
    evaluation: Seconds


@dataclass(frozen=True)
class Scale:
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
    ) -> "Scale":
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

    def training(self, tried: Tried) -> Cost:
        """The forecast of a round without its evaluation."""
        sent = _sent(tried.lines)
        at_cut = self._at_cut(sum(sent[flow] for flow in AT_CUT), tried.totals)
        factors = dict.fromkeys(FLOWS, self.tokens) | dict.fromkeys(AT_CUT, at_cut)
        factors |= _of("adapter", self.taking_part) | _of("evaluation", 0.0) | _of("adapter", 0.0, "down")
        seconds = tried.training.server * self.tokens + tried.training.clients * self.longest
        return self._over_link(_scaled(tried.lines, factors), self.largest_part, seconds)

    def before(self, tried: Tried) -> Cost:
        """The forecast of the first evaluation, with the adapter that clients get for it."""
        return self._held_out(tried, dict.fromkeys(FLOWS, self.clients), 1.0)

    def evaluation(self, tried: Tried) -> Cost:
        """The forecast of an evaluation after a round, without what training sends."""
        return self._held_out(tried, _of("adapter", self.clients, "down"), 1 - tried.exact)

    def adapter(self, tried: Tried) -> Cost:
        """The forecast of the adapter that a round begins with."""
        cost = _scaled(tried.lines, _of("adapter", self.taking_part, "down"))
        return self._over_link(cost, 1 / (self.taking_part * self.num_clients / self.clients))

    def _held_out(self, tried: Tried, others: Mapping[str, float], part: float) -> Cost:
        """A part of an evaluation, and other flows times a factor."""
        cost = _scaled(tried.lines, {**others, **_of("evaluation", part * self.held_out)})
        server_s, of_client_s = tried.evaluation.server, tried.evaluation.clients / self.clients
        passes = 2 if tried.exact else 1
        computing_s = (server_s + of_client_s) * self.held_out / passes
        return self._over_link(cost, 1 / self.num_clients, computing_s)

    def exact(self, tried: Tried) -> Cost:
        """The forecast of the last evaluation's second pass; it takes the computing of the first."""
        return self._held_out(tried, {}, tried.exact)

    def _over_link(self, cost: Cost, part: float, computing_s: float = 0.0) -> Cost:
        """With its seconds; `part` is how much of the bytes one client sends, the one with most."""
        link_s = self.link.seconds(cost.up_bytes * part, cost.down_bytes * part)
        return replace(cost, link_s=link_s, computing_s=computing_s)

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


def _scaled(lines: Sequence[Mapping[str, Any]], factors: Mapping[str, float]) -> Cost:
    """The bytes of flows that become so many times as large; those that go both ways are parted as they are."""
    sent = _sent(lines)
    up, down = (
        [flow for flow in FLOWS if FLOWS[flow].direction == direction] for direction in ("up", "down")
    )
    both = FLOWS.keys() - {*up, *down}
    going_up = (sent["up"] - sum(sent[flow] for flow in up)) / max(sum(sent[flow] for flow in both), 1)
    whole = {flow: sent[flow] * factors.get(flow, 0.0) for flow in FLOWS}
    to_both = sum(whole[flow] for flow in both)
    return Cost(
        sum(whole[flow] for flow in up) + to_both * going_up,
        sum(whole[flow] for flow in down) + to_both * (1 - going_up),
        flows=whole,
    )


def _tokens(*groups: Sequence[Sample]) -> int:
    return sum(int(lengths_of(group).sum()) for group in groups)
