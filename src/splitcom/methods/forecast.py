"""What the rounds of a run will send and take over a link, from a trial on a part of its own first batches."""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from typing_extensions import override

from splitcom.config import Config
from splitcom.data import Sample
from splitcom.errors import ConfigError
from splitcom.flows import AT_CUT, FLOWS
from splitcom.methods.run import configured
from splitcom.parties.parts import load_parts
from splitcom.parties.texts import Texts, load_texts, with_chat, with_classes
from splitcom.server.observe import Observer, StepReport
from splitcom.simulation.simulation import Simulation
from splitcom.transports.link import Link

_CLIENTS, _BATCHES, _ROUNDS = 3, 12, 3  # of the trial, at most


@dataclass(frozen=True)
class RoundForecast:
    """What one round will send and take."""

    flows: Mapping[str, float]
    """Bytes of all clients, by flow."""
    up_bytes: float
    down_bytes: float
    computing_s: float
    link_s: float
    """Of the client that sends most."""


@dataclass(frozen=True)
class Forecast:
    """What the rounds of a run will send and take."""

    before: RoundForecast
    """The first evaluation, and what comes with it."""
    rounds: list[RoundForecast]
    num_rounds: int
    """Those of the run: what comes after `rounds` is like the last of them."""
    steps: int
    """That were tried."""

    def of_round(self, index: int) -> RoundForecast:
        """The forecast of a round; 0 is the first evaluation."""
        return [self.before, *self.rounds][min(index, len(self.rounds))]


class _Steps(Observer):
    """Bytes after each step, by round."""

    def __init__(self) -> None:
        self.totals: dict[int, list[int]] = {}

    @override
    def on_step(self, report: StepReport) -> None:
        self.totals.setdefault(report.round, []).append(report.total_bytes)


def forecast(config: Config, link: Link) -> Forecast:
    """Try a part of a run and tell what all of it will send and take: loads model and data, and trains for a while.

    Up to three clients train for up to three rounds on up to twelve of their first batches. Bytes at the cut grow by
    what later steps have sent, others by clients or held-out samples; computing grows by tokens. Codecs that build on
    earlier visits send more the more has been learnt between two, so that rounds far longer than the trial's are
    underestimated. Raises what `train` raises.
    """
    config = with_chat(with_classes(configured(config)))
    if not config.federation.waits_for_all:
        raise ConfigError(
            "federation.deadline_s, over_select and asynchronous scheduling go by time: their rounds cannot be foretold"
        )
    texts = load_texts(config)
    groups = [group for group in texts.partition.parts if group]
    batch = config.training.batch_size
    tried = [group[: _BATCHES * batch] for group in groups[:_CLIENTS]]
    held_out = texts.held_out.samples[: batch * len(tried)]
    trial = config.override(
        {
            "federation.clients": len(tried),
            "federation.names": None,
            "federation.sample": 1.0,
            "federation.min_clients": 1,
            "links": {},
        }
    )
    trial_texts = Texts(
        replace(texts.partition, parts=tried), texts.train, replace(texts.held_out, samples=held_out)
    )
    steps = _Steps()
    with tempfile.TemporaryDirectory() as folder:
        simulation = Simulation(trial, trial_texts, load_parts(trial), Path(folder), steps)
        with closing(simulation):
            tried_rounds = _run(simulation, min(_ROUNDS, config.training.rounds))
    taking_part = max(1, round(config.federation.sample * len(groups)))
    all_tokens, largest = _tokens(groups) * taking_part / len(groups), max(map(num_tokens, groups))
    scale = _Scale(
        tokens=all_tokens / _tokens(tried),
        longest=largest / max(map(num_tokens, tried)),
        largest_part=largest / all_tokens,
        clients=taking_part / len(tried),
        held_out=_tokens([texts.held_out.samples]) / _tokens([held_out]),
        steps=max(map(len, groups)) / max(map(len, tried)),
        link=link,
    )
    before, *rounds = (scale.of(one, steps.totals.get(index, [])) for index, one in enumerate(tried_rounds))
    return Forecast(before, rounds, config.training.rounds, sum(map(len, steps.totals.values())))


@dataclass(frozen=True)
class _Tried:
    """What the trial has of a round: a line for each client, and seconds of the server and of clients, who work side by side."""

    lines: Sequence[Mapping[str, Any]]
    server_s: float
    clients_s: float


def num_tokens(samples: Sequence[Sample]) -> int:
    """Tokens of samples."""
    return sum(sample.num_tokens for sample in samples)


def _tokens(groups: Sequence[Sequence[Sample]]) -> int:
    return sum(map(num_tokens, groups))


def _run(simulation: Simulation, rounds: int) -> list[_Tried]:
    """The first evaluation, which comes before training, and the first rounds."""
    clock, tried, before = simulation.clock, [], (0.0, 0.0)
    for lines in islice(simulation.federation.run(), 1 + rounds):
        now = (clock.server_compute_s, clock.server_time_s)
        server_s, all_s = (new - old for new, old in zip(now, before, strict=True))
        tried.append(_Tried(lines, server_s, all_s - server_s))
        before = now
    return tried


@dataclass(frozen=True)
class _Scale:
    """How many times what the trial has is what the run has."""

    tokens: float
    longest: float
    """Tokens of the client that has most."""
    largest_part: float
    """Of all that is sent: what this client sends."""
    clients: float
    held_out: float
    steps: float
    link: Link

    def of(self, tried: _Tried, totals: Sequence[int]) -> RoundForecast:
        """The forecast of a round; `totals` are the trial's bytes after each of its steps."""
        lines, sent = tried.lines, Counter[str]()
        for line in lines:
            sent.update({flow: line["bytes"][flow] for flow in FLOWS})
        at_cut = self._at_cut(sum(sent[flow] for flow in AT_CUT), totals)
        factors = dict.fromkeys(AT_CUT, at_cut) | {
            "adapter_up": self.clients,
            "adapter_down": self.clients,
            "control": self.tokens,
            "labels_up": self.tokens,
            "evaluation": self.held_out,
        }
        flows = {flow: size * factors[flow] for flow, size in sent.items()}
        # control and evaluation go both ways
        both = [flow for flow in FLOWS if FLOWS[flow].direction == "both"]
        growth = sum(flows[flow] for flow in both) / max(sum(sent[flow] for flow in both), 1)
        up, down = (
            sum(flows[flow] - growth * sent[flow] for flow in FLOWS if FLOWS[flow].direction == direction)
            + growth * sum(line["bytes"][direction] for line in lines)
            for direction in ("up", "down")
        )
        link_s = self.link.seconds(up * self.largest_part, down * self.largest_part)
        computing_s = tried.server_s * self.tokens + tried.clients_s * self.longest
        return RoundForecast(flows, up, down, computing_s, link_s)

    def _at_cut(self, sent: int, totals: Sequence[int]) -> float:
        """By which factor the bytes at the cut grow: what is sent once does not, and the first steps send it."""
        later = [new - old for old, new in pairwise(totals)]
        if not sent or len(later) < 2:
            return self.tokens
        usual = mean(later[len(later) // 2 :])
        more = (self.steps - 1) * len(totals) * usual
        return (sent + more) / sent * self.tokens / self.steps
