"""What the rounds of a run will send and take over a link, from a trial on a part of its own first batches."""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from typing_extensions import override

from splitcom.config import Config, LinksConfig
from splitcom.data import Sample, Samples, lengths_of
from splitcom.errors import ConfigError
from splitcom.methods.need import Need, guessing_bytes, need_of_client
from splitcom.methods.run import completed
from splitcom.methods.scale import Cost, Scale, Seconds, Tried
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
    evaluated: Collection[int]
    """The rounds that end with an evaluation, with 0 and the last."""
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
        >>> told = Forecast([one], [one, one], [one], Cost(up_bytes=5.0), num_rounds=4, evaluated=[0, 2, 4], steps=8)
        >>> [told.of_round(index).up_bytes for index in range(5)]
        [1.0, 1.0, 3.0, 1.0, 8.0]
        """
        like = min(index, self.num_tried)
        cost = self.training[like - 1] if index else Cost()
        if index > 1 and index - 1 not in self.evaluated:
            cost += self.adapters[like - 1]
        if index in self.evaluated:
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
    tried = [
        group[: _BATCHES * config.of_client(name).training.batch_size]
        for name, group in zip(names[:_CLIENTS], groups, strict=False)
    ]
    rows = _rows(config, names, groups, texts.held_out.samples)
    evaluated = texts.held_out.samples[: sum(rows.values())]
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
    scale = Scale.of(config, groups, tried, evaluated, held_out, link)
    told = Forecast(
        training=[scale.training(one) for one in rounds[1:]],
        evaluations=[scale.before(rounds[0]), *(scale.evaluation(one) for one in rounds[1:])],
        adapters=[scale.adapter(one) for one in rounds[1:]],
        exact=scale.exact(rounds[-1]),
        num_rounds=config.training.rounds,
        evaluated={0, config.training.rounds},
        steps=sum(len(one.totals) for one in rounds),
        data=f"{texts.report}\n{texts.partition}",
        client=_need(config, names, groups),
        server_weights=_weights(parts, config) if config.training.split else 0,
    )
    return replace(told, evaluated=_evaluated(told, config, rows))


def _need(config: Config, names: Sequence[str], groups: Sequence[Sequence[Sample]]) -> Need:
    """Of the client with the most samples, if it has the longest one, too."""
    longest = max(int(lengths_of(group).max()) for group in groups)
    most = max(range(len(groups)), key=lambda index: len(groups[index]))
    return need_of_client(config.of_client(names[most]), len(groups[most]), longest)


def _evaluated(told: Forecast, config: Config, rows: Mapping[str, int]) -> set[int]:
    """The rounds of a run that end with an evaluation: where one is due, and has room in the run's budget."""
    budget, before, found = Budget.of(config), Cost(), {told.num_rounds}
    told = replace(told, evaluated=found)
    for index in range(told.num_rounds):
        sent = before + told.of_round(index)
        if index == 0 or (index % config.evaluation.every == 0 and budget.has_room(sent.flows, rows)):
            found.add(index)
            sent = before + (cost := told.of_round(index))
            budget.take_note(cost.flows["evaluation"], sum(rows.values()))
        before = sent
    return found


def _rows(
    config: Config, names: Sequence[str], groups: Sequence[Sequence[Sample]], held_out: Samples
) -> dict[str, int]:
    """As many of each client's held-out samples as an evaluation is over."""
    sizes = {name: num_kept(len(group), config) for name, group in zip(names, groups, strict=True)}
    held = {name: len(held_out[index :: len(names)]) for index, name in enumerate(names)}
    return Budget.of(config).rows(sizes, {name: number for name, number in held.items() if number})


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


class _Watch(Observer):
    """Runs a trial and notes bytes and seconds at each step."""

    def __init__(self) -> None:
        self._clock = VirtualClock(LinksConfig())
        self._ledger = Ledger()
        self._totals: list[int] = []
        self._trained = Seconds(0.0, 0.0)
        self._done = 0  # held-out samples in this pass
        self._evaluated = 0  # bytes of evaluations by then
        self._passed: int | None = None  # by the end of the first pass, if there is a second

    def run(self, simulation: Simulation) -> list[Tried]:
        """The first evaluation, which comes before training, and the rounds."""
        self._clock, self._ledger = simulation.clock, simulation.federation.ledger
        tried, before, sent = [], Seconds(0.0, 0.0), 0
        for lines in simulation.federation.run():
            now, trained = self._now(), self._trained if self._totals else before
            start, sent = sent, self._sent()
            exact = 0.0 if self._passed is None else (sent - self._passed) / (sent - start)
            tried.append(Tried(lines, self._totals, exact, trained - before, now - trained))
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
        return self._ledger.totals()["evaluation"]

    def _now(self) -> Seconds:
        server_s = self._clock.server_compute_s
        return Seconds(server_s, self._clock.server_time_s - server_s)
