"""The server's side of a run: the round loop.

    for every round:  sample clients ─► send adapter ─► steps ─► collect adapters ─► average ─► evaluate ─► save

A client that begins anew in the middle of this has lost its part of it: everybody goes back to the state after the last
saved round, so that the run ends with the same bits as an undisturbed one.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

import torch

from splitcom.codecs import ReferenceStore
from splitcom.config import Config
from splitcom.engines.engine import Engine
from splitcom.metrics.ledger import Ledger
from splitcom.metrics.participation import Participation
from splitcom.metrics.tally import Tally
from splitcom.protocol.labels import pack_labels, unpack_labels
from splitcom.protocol.limits import KindLimits
from splitcom.protocol.messages_pb2 import Message, SaveState, Welcome
from splitcom.server.agreement import Agreement
from splitcom.server.best import Best
from splitcom.server.body import ServerBody
from splitcom.server.claims import bound_training_losses, warn_of_sizes
from splitcom.server.controllers import Controllers
from splitcom.server.conversations import Conversations, Rejoined
from splitcom.server.evaluation import Evaluation, HeldOut
from splitcom.server.holdings import Common, Holdings
from splitcom.server.lines import line_of
from splitcom.server.observe import Observer
from splitcom.server.outliers import told
from splitcom.server.part import ServerRun
from splitcom.server.shared import SharedAdapter
from splitcom.server.state import ClientStates
from splitcom.server.steps import Steps
from splitcom.state import State
from splitcom.training.channel import Channels
from splitcom.training.limits import limits_of
from splitcom.training.steering import steer
from splitcom.training.store import PartyStore, sections_of
from splitcom.transports.events import Transport


class Scheduling(Protocol):
    """Runs the training of rounds, which ends with a new version of the shared adapter."""

    def train(self, round_index: int) -> None:
        """Run a round, from 1; raises Rejoined where it cannot be brought to its end."""

    def settle(self, round_index: int, *, is_last: bool) -> None:
        """Have every client idle after this round, so that it can be evaluated and saved."""

    def state(self) -> State:
        """What a checkpoint keeps, when all is settled."""

    def load_state(self, state: State) -> None:
        """Go on from a checkpoint."""


@dataclass(frozen=True)
class Served:
    """What a run trains, as the server holds it."""

    engine: Engine | None  # None if clients train the whole model
    adapter: Mapping[str, torch.Tensor]  # that clients share, before training
    fingerprint: str  # of the model
    block_of: Mapping[str, int] = field(default_factory=dict)  # of the tensors of fronts that are in one

    def limits(self, config: Config) -> KindLimits:
        """How large clients' messages may be."""
        return limits_of(config, None if self.engine is None else self.engine.hidden_size, self.adapter)


class Federation:
    """One run as the server sees it."""

    def __init__(
        self,
        config: Config,
        transport: Transport,
        model: Served,
        open_channels: Callable[[str], Channels],
        store: PartyStore,
        scheduling: Callable[[ServerRun, Steps], Scheduling],
        observer: Observer | None = None,
    ) -> None:
        self.config = config
        self.engine = model.engine
        self.ledger = Ledger(Tally(store.folder / "sent"))
        self.round = 0
        self.eval_losses: dict[int, float] = {}
        self.eval_accuracies: dict[int, float] = {}  # of classes, else empty
        self.eval_rows: dict[int, dict[str, int]] = {}  # held-out samples of each loss, by client
        self.participation = Participation()
        self.members: list[str] = []  # the clients that were there when the last round ended
        self.exact: HeldOut | None = None  # after the last round, if the others are of coded hidden states
        self.uncompressed: Counter[str] = Counter()
        self.wall_s = 0.0
        self.controllers = Controllers(config)
        self.best = Best(config.training)
        self.states = ClientStates(open_channels)
        self._store = store
        self._saved_round = 0
        self._saved_clocks: dict[str, Any] = {}
        self.merges = Tally(store.folder / "merged")
        self._observer = observer = observer or Observer()
        common = Common(Holdings(config, model.block_of), config, model.engine)
        uses, self._cuts = self.states.versions_in_use, common.holdings.cuts
        self._shared = SharedAdapter(model.adapter, config, uses, self.merges, observer.on_merge, common)
        self._clients = Conversations(
            config, transport, self.ledger, model.fingerprint, self.states.begin_anew, model.limits(config)
        )
        self._agreement = Agreement(self._clients, self.states, store, config.training.keep_checkpoints)
        of, engine = (self._clients, self.states, self._cuts), model.engine
        self._body = body = None if engine is None else ServerBody(config, engine, *of)
        run = ServerRun(config, self._clients, self.states, self._shared)
        self._steps = Steps(run, body, self.ledger, observer)
        self._evaluation = Evaluation(run, body, observer, self.ledger)
        self._scheduling = scheduling(run, self._steps)

    @property
    def adapter(self) -> dict[str, torch.Tensor]:
        """The adapter that clients share: the front's, or the whole model's where nothing is split."""
        return dict(self._shared.tensors)

    @property
    def whole_adapter(self) -> dict[str, torch.Tensor]:
        """The adapter of all parts, as training has left it."""
        return self.adapter | ({} if self.engine is None else self.engine.adapter())

    @property
    def kept_adapter(self) -> dict[str, torch.Tensor]:
        """The adapter of all parts that the run is to leave."""
        return self.best.adapter or self.whole_adapter

    @property
    def kept_round(self) -> int:
        """The round after which the adapter was what is kept; 0: before training."""
        return self.best.round if self.best.adapter and self.best.round is not None else self.round

    @property
    def warnings(self) -> list[str]:
        """What there is to be warned of in how the run went."""
        return self._agreement.warnings

    @property
    def ended_by(self) -> dict[str, int]:
        """The setting of training that has ended the run, and its value."""
        training = self.config.training
        return {"patience": training.patience} if self.best.is_given_up else {"rounds": training.rounds}

    def run(self) -> Iterator[list[dict[str, Any]]]:
        """Run all rounds that are left, from the last saved one; yields the lines of metrics.jsonl after each.

        Round 0 is the evaluation before training. A round is saved after its lines have been taken, and one that had
        to be repeated may be yielded twice.
        """
        self._observer.on_begin(self._clients.standings)
        self._observer.on_gather(self._clients.missing)
        if self._store.latest() is None:
            self._keep()
        else:
            self._restore()
        started = perf_counter() - self.wall_s
        while not self._is_last:
            try:
                for lines in self._rounds():
                    self.wall_s = perf_counter() - started
                    yield lines
                    if self._is_due:
                        with self._clients.phases("save"):
                            self._keep()
                        self._observer.on_saved(self.round)
            except Rejoined:
                self._clients.reset()
                self._restore()
        self._clients.finish()
        for counted in self.ledger.close_round().values():  # the last messages, after the last line
            self.uncompressed.update(counted)

    @property
    def _is_due(self) -> bool:
        return self._is_last or self.round % self.config.training.checkpoint_every == 0

    @property
    def _is_last(self) -> bool:
        return self.round == self.config.training.rounds or self.best.is_given_up

    def _rounds(self) -> Iterator[list[dict[str, Any]]]:
        self._clients.gather()
        warn_of_sizes({name: self._clients.peers[name].num_samples for name in self._clients.present})
        if (common := self._agreement.common_round(self._saved_round)) != self._saved_round:
            self._store.go_back_to(common)
            self._restore()
        self._welcome()
        # Coming together takes no time of the run's, or else one that is resumed would not go on to the same order.
        self._clients.transport.load_state(self._saved_clocks)
        if not self.eval_losses:
            self._evaluate()
            self._save_clients()
            yield self._close_round()
        while not self._is_last:
            if len(self._clients.present) < self.config.federation.min_clients:
                self._clients.gather()
            self._welcome()
            self._round()
            if self._is_due:
                self._save_clients()
            yield self._close_round()

    def _welcome(self) -> None:
        """Answer every hello: go on from the last saved round if both sides have it, else begin anew."""
        for name in self._clients.greeted:
            state, peer = self.states[name], self._clients.peers[name]
            if state.acknowledged_round not in peer.saved_rounds:
                self._agreement.check(name, self._saved_round)
                state.begin_anew()
                state.adapter_version = self._shared.held_by(peer.adapter_digest, name)
            welcome = Welcome(config_toml=self.config.told(name), round=state.acknowledged_round)
            self._clients.send(name, Message(welcome=welcome))

    def _round(self) -> None:
        self.round += 1
        self.exact = None
        for state in self.states.values():
            steer(state.channels, self.controllers.decisions)
        self.states.begin_adapters_anew(self._cuts.adapt(self.round))
        self._steps.freezes_fronts = self.controllers.freezes_fronts
        self._scheduling.train(self.round)
        evaluates = self._is_last or self._evaluation.is_due(self.round)
        if evaluates or self._is_due:
            self._scheduling.settle(self.round, is_last=self._is_last)
            if evaluates:  # or else one that begins anew when it is asked would have all do the round again
                self._clients.await_back()
            self._welcome()  # who had no part in this and has begun anew meanwhile
        if evaluates:
            self._evaluate()

    def _evaluate(self) -> None:
        if (found := self._evaluation.run(self.round)) is not None:
            self.eval_losses[self.round], self.eval_rows[self.round] = found.loss, dict(found.rows)
            if self.config.data.classes is not None:
                self.eval_accuracies[self.round] = found.accuracy
            self._cuts.observe(self._evaluation.losses)
            self.best.observe(self.round, found, self._evaluation.losses, lambda: self.whole_adapter)
        # Beside the other and not in its place: a run whose rounds are raised goes on as if it had not ended here.
        if self._is_last and self.config.codes_evaluation and self.config.evaluation.exact_last:
            with self._kept_in_place():
                self.exact = self._evaluation.run(self.round, exact=True)

    @contextmanager
    def _kept_in_place(self) -> Iterator[None]:
        """Have all parties run what is kept; until this ends, since a longer run goes on from the last."""
        if self.kept_round == self.round:
            yield
            return
        kept, engine = self.best.adapter, self.engine
        body = {} if engine is None else engine.adapter()
        with self._shared.replaced({name: kept[name] for name in self.adapter}):
            try:
                if engine is not None:
                    engine.load_adapter({name: kept[name] for name in body})
                yield
            finally:
                if engine is not None:
                    engine.load_adapter(body)

    def _close_round(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl for this round; what was counted for it starts anew."""
        counted = self.ledger.close_round()
        lines = []
        server_s = 0.0 if self._body is None else self._body.engine.take_seconds()
        self.members = self._clients.present
        self.participation.add(self.round, [name for name, of in self.states.items() if of.counts.updates])
        bound_training_losses({name: state.counts for name, state in self.states.items()}, self.config)
        brought = self.states.brought(self._cuts.of)
        others = told(self.round, brought, self._shared.take_compared())
        for name in self._clients.peers:
            sent, state = counted.get(name, {}), self.states[name]
            done = state.counts
            if done.steps or sent:
                seconds = {"server": server_s, **self._clients.transport.take_seconds(name)}
                adapters = self._shared.take_uncompressed(name)
                loss, rows = self.eval_losses.get(self.round), self.eval_rows.get(self.round)
                num_rows = None if rows is None else sum(rows.values())
                line = line_of(name, self.round, loss, num_rows, state, sent, adapters, seconds)
                line |= others.get(name, {}) | {"cut": self._cuts.of(name)}
                if self.config.data.classes is not None:
                    line["accuracy"] = done.num_correct / done.num_labels if done.num_labels else None
                    line["eval_accuracy"] = self.eval_accuracies.get(self.round)
                self.uncompressed.update(line["uncompressed_bytes"])
                lines.append(line)
            state.forget_counts()
        self.controllers.observe(self.round, lines)
        self._shared.observe(lines)
        return lines

    def _save_clients(self) -> None:
        """Have clients keep their states that have heard something since they last did; the server's comes later."""
        names = [name for name in self._clients.ready if not self._clients.peers[name].is_kept]
        for name in names:
            self._clients.send(name, Message(save_state=SaveState(round=self.round)))
        for name in self._clients.collect(names):
            self.states[name].acknowledged_round = self.round

    @property
    def _parts(self) -> dict[str, Any]:
        """What has a state of its own in a checkpoint."""
        return {
            "shared": self._shared,
            "scheduling": self._scheduling,
            "control": self.controllers,
            "best": self.best,
            "budget": self._evaluation.budget,
            "cuts": self._cuts,
        }

    def _keep(self) -> None:
        """Keep the server's own state."""
        self._saved_round, self._saved_clocks = self.round, self._clients.transport.state()
        parts = {part: of.state() for part, of in self._parts.items()}
        tensors = {f"{part}.{name}": t for part, state in parts.items() for name, t in state.tensors.items()}
        if self.engine is not None:
            tensors |= {f"body.{name}": tensor for name, tensor in self.engine.state().items()}
        for name, client in self.states.items():
            for section, labels in client.all_labels().items():
                if labels:
                    packed = bytearray(pack_labels(labels))
                    tensors[f"{section}.{name}"] = torch.frombuffer(packed, dtype=torch.uint8)
        scalars = {
            "parts": {part: state.scalars for part, state in parts.items()},
            "wall_s": self.wall_s,
            "eval_losses": self.eval_losses,
            "eval_accuracies": self.eval_accuracies,
            "eval_rows": self.eval_rows,
            "participation": self.participation.ranges,
            "members": self.members,
            "exact": self.exact,
            "ledger": self.ledger.state(),
            "uncompressed": self.uncompressed,
            "warnings": self._agreement.warnings,
            "transport": self._saved_clocks,
            "clients": {
                name: [client.acknowledged_round, client.adapter_version, client.base_version]
                for name, client in self.states.items()
            },
        }
        self._store.save(self.round, tensors, scalars, self._references())
        self._clients.saved()

    def _restore(self) -> None:
        """Go back to the last saved round."""
        self.round = self._saved_round = self._store.latest() or 0
        tensors, scalars = self._store.load(self.round)
        sections = sections_of(tensors)
        parts = {part: State(sections[part], kept) for part, kept in scalars["parts"].items()}
        if self.engine is not None:
            self.engine.load_state(sections["body"])
        for name, known in scalars["clients"].items():
            client = self.states[name]
            client.acknowledged_round, client.adapter_version, client.base_version = known
            for section, labels in client.all_labels().items():
                labels.clear()
                if (saved := sections[section].get(name)) is not None:
                    labels |= unpack_labels(saved.numpy().tobytes(), self.config.data.max_tokens)
            client.forget_counts()
        for part, of in self._parts.items():
            of.load_state(parts.get(part, State()))
        self._store.load_references(self.round, self._references())
        self.wall_s = max(self.wall_s, scalars["wall_s"])
        self.eval_losses = {int(index): loss for index, loss in scalars["eval_losses"].items()}
        self.eval_accuracies = {int(index): value for index, value in scalars["eval_accuracies"].items()}
        self.eval_rows = {int(index): rows for index, rows in scalars["eval_rows"].items()}
        self.participation, self.members = Participation(scalars["participation"]), scalars["members"]
        self.exact = None if scalars["exact"] is None else HeldOut(*scalars["exact"])
        self.uncompressed = Counter(scalars["uncompressed"])
        self._agreement.warnings = scalars["warnings"]
        self.ledger.load_state(scalars["ledger"])
        self._saved_clocks = scalars["transport"]
        self._clients.transport.load_state(self._saved_clocks)
        if self._body is not None:
            self._body.engine.take_seconds()

    def _references(self) -> Iterator[tuple[str, ReferenceStore]]:
        for name, client in self.states.items():
            for flow, channel in client.channels.items():
                if channel.references is not None:
                    yield f"{name}-{flow}", channel.references

    def close(self) -> None:
        """Let go of what is kept in files."""
        self.ledger.close()
        for _, references in self._references():
            references.close()
