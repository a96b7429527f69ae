"""The server's part in the steps of a round: receive, decode, step the body, answer with gradients.

    message ─► receive ─┬─► batch ─► step ─► gradient      and, if a reference is lost on the way:
                        └─► update, when the round ends      reference_lost ─► the packet once more

Which clients step together, and when a round is over, is the business of scheduling.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from splitcom.aggregation import Update
from splitcom.codecs import uncompressed_size
from splitcom.engines.engine import Arrival, StepResult
from splitcom.errors import RemoteProtocolError
from splitcom.metrics.ledger import Ledger
from splitcom.protocol.messages_pb2 import (
    ChunkNext,
    Gradient,
    MaskShare,
    Message,
    RoundAbort,
    RoundEnd,
    RoundStart,
)
from splitcom.server.arrivals import Lost
from splitcom.server.body import ServerBody
from splitcom.server.claims import check_chunk_end, check_lost_gradient, check_round_end
from splitcom.server.observe import Observer, StepReport
from splitcom.server.parallel import at_once
from splitcom.server.part import ServerPart, ServerRun
from splitcom.server.recovery import Recovery
from splitcom.server.state import Task
from splitcom.training.steering import announce, settings_of


@dataclass(frozen=True)
class Brought:
    """What clients have brought: batches to train on, and the updates of rounds that they have ended."""

    arrivals: dict[str, Arrival]
    updates: dict[str, Update]
    sketches: dict[str, bytes] = field(default_factory=dict)  # of clients that have ended a chunk


class Steps(ServerPart):
    """`body` is None if clients train the whole model and a round has no steps that the server sees."""

    def __init__(
        self,
        run: ServerRun,
        body: ServerBody | None,
        ledger: Ledger,
        observer: Observer,
    ) -> None:
        super().__init__(run)
        self._body = body
        self._ledger = ledger
        self._observer = observer
        self.freezes_fronts = False  # in rounds that are begun from now on

    def begin(self, name: str, task: Task, mask_shares: Sequence[MaskShare] = ()) -> None:
        """Have a client train a round, or go on with one that it has paused."""
        state = self._states[name]
        if task.next_step == 0:
            task.is_frozen = self.freezes_fronts
            if not self.renews(is_frozen=task.is_frozen):
                task.chunk_steps = 0  # nobody moves
        start = RoundStart(
            round=task.round,
            first_step=task.next_step,
            place=task.place,
            frozen=task.is_frozen,
            segment=task.segment,
            chunk_steps=task.chunk_steps,
            along_last=task.along_last,
            share=self._adapter.share,
            mask_shares=mask_shares,
        )
        announce(state.channels, start)
        if task.next_step == 0:
            self._adapter.offer(name, state, start)
        state.task = task
        task.is_pausing = False
        self._clients.send(name, Message(round_start=start))

    def receive(self, messages: Mapping[str, Message]) -> Brought:
        """What these messages bring, when neither side lacks a reference. Raises Rejoined.

        A client that has paused or whose round is abandoned brings nothing, nor one that is refused or leaves.
        """
        arrivals: dict[str, Arrival] = {}
        updates: dict[str, Update] = {}
        sketches: dict[str, bytes] = {}
        with self._clients.phases("decode"):
            decoded = at_once(self._decodings(messages))
        for name, message in self._clients.each(messages):
            with self._clients.refusing(name):
                match self._receive(name, message, decoded.get(name)):
                    case bytes() as sketch:
                        sketches[name] = sketch
                    case Update() as update:
                        updates[name] = update
                    case Arrival() as arrival:
                        arrivals[name] = arrival
        return Brought(dict(self._clients.each(arrivals)), updates, dict(self._clients.each(sketches)))

    def go_on(self, names: Iterable[str], *, more: bool) -> None:
        """Tell clients that have ended a chunk whether there is another one."""
        for name in names:
            if (task := self._states[name].task) is not None:
                task.goes_on = more
                self._clients.send(name, Message(chunk_next=ChunkNext(more=more)))

    def _decodings(self, messages: Mapping[str, Message]) -> dict[str, Callable[[], Arrival | Lost]]:
        """How to read the batches among messages that are due."""
        if self._body is None:
            return {}
        return {
            name: partial(self._body.arrivals.to_train, name, message)
            for name, message in messages.items()
            if (task := self._states[name].task) is not None
            if not task.is_abandoned and message.WhichOneof("kind") in ("activation", "activation_up")
        }

    def _receive(
        self, name: str, message: Message | None, decoded: Callable[[], Arrival | Lost] | None
    ) -> Arrival | Update | bytes | None:
        """What a client brings; `decoded` reads its message if that is a batch."""
        state, recovery = self._states[name], Recovery()
        while message is not None and (task := state.task) is not None:
            kind = message.WhichOneof("kind")
            if task.is_abandoned:
                self._abandon(name, message)
                return None
            if kind == "reference_lost":
                recovery.of_client()
                check_lost_gradient(message.reference_lost, state)
                self._send_gradient(name)
            else:
                state.gradient = None  # the client has it
                if kind == "round_end":
                    return self._end(name, task, message.round_end)
                if kind == "chunk_end":
                    check_chunk_end(task)
                    task.chunks += 1
                    return message.chunk_end.sketch
                if kind == "round_paused":
                    if not task.is_pausing:
                        raise RemoteProtocolError("it has paused without being told to")
                    return None
                if self._body is None:
                    raise RemoteProtocolError("an activation, in a run that is not split")
                with self._clients.phases("decode"):
                    read = decoded or partial(self._body.arrivals.to_train, name, message)
                    arrival, decoded = read(), None
                if not isinstance(arrival, Lost):
                    return arrival
                recovery.of_server()
                self._clients.send(name, arrival.answer)
            message = self._clients.next_of(name)
        return None

    def step(
        self,
        arrivals: Mapping[str, Arrival],
        position: tuple[int, int],
        num_steps: int,
        progress: float,
        *,
        pause: bool = False,
    ) -> None:
        """Step the body on what has arrived and send every client its gradient. Raises Rejoined.

        Args:
            arrivals: by client; at least one.
            position: the round and the step in it, which no two steps have in common.
            num_steps: of the round, as far as they can be foreseen.
            progress: that of the run, in [0, 1].
            pause: have these clients stop after this step.
        """
        assert self._body is not None
        together = self._config.training.body_update == "parallel"
        groups = [arrivals] if together else [{name: arrival} for name, arrival in arrivals.items()]
        results: dict[str, StepResult] = {}
        for index, group in enumerate(groups):
            draw = (position[0], position[1] * len(groups) + index)
            with self._clients.phases("body"):
                results |= self._body.step(group, draw, position, progress)
        if not results:  # all clients of the step were lost or refused in the middle of it
            return
        for name, result in results.items():
            self._note(name, arrivals[name], result, pause=pause)
        with self._clients.phases("encode"):
            packets = at_once({name: encode for name in results if (encode := self._encoding(name))})
        for name in results:
            self._send_gradient(name, arrivals[name], packets.get(name))
        self._step_again(groups, results.keys(), position, progress)
        self._report(arrivals, results, position, num_steps)

    def _step_again(
        self,
        groups: Sequence[Mapping[str, Arrival]],
        names: Collection[str],
        position: tuple[int, int],
        progress: float,
    ) -> None:
        """The body's further steps on what has come of these clients, who have their gradients and get no others."""
        assert self._body is not None
        for again in range(1, self._config.training.body_steps):
            still: set[str] = set()
            for index, group in enumerate(groups):
                own = {name: replace(of, trains_front=False) for name, of in group.items() if name in names}
                draw = (position[0], position[1] * len(groups) + index, -again)
                with self._clients.phases("body"):
                    still |= self._body.step(own, draw, position, progress).keys()
            names = still

    def _note(self, name: str, arrival: Arrival, result: StepResult, *, pause: bool) -> None:
        """Count what a step has done for a client."""
        state = self._states[name]
        task, counts = state.task, state.counts
        assert task is not None
        counts.steps += 1
        batch = arrival.decoded.batch
        counts.tokens += len(batch.values)
        counts.uncompressed_bytes += uncompressed_size(
            arrival.decoded.ids, batch.lengths.tolist(), batch.hidden
        )
        counts.activation.add(batch.values)
        counts.loss_sum += result.loss_sum
        counts.num_labels += result.num_labels
        counts.num_correct += result.num_correct
        state.gradient = None if result.gradient is None else (result.gradient, arrival.decoded.ids)
        task.next_step += 1
        task.num_labels += result.num_labels
        task.is_pausing = pause

    def _report(
        self,
        arrivals: Mapping[str, Arrival],
        results: Mapping[str, StepResult],
        position: tuple[int, int],
        num_steps: int,
    ) -> None:
        found = results.values()
        mean = sum(result.loss_sum for result in found) / sum(result.num_labels for result in found)
        skipped = torch.cat([arrival.decoded.skipped for arrival in arrivals.values()])
        self._observer.on_step(
            StepReport(
                round=position[0],
                step=position[1] + 1,
                num_steps=num_steps,
                loss=None if self._config.model.tail_blocks else mean,
                skip_ratio=float(skipped.float().mean()),
                total_bytes=self._ledger.totals()["total"],
                thresholds=settings_of(self._states[next(iter(results))].channels),
                seconds=self._clients.phases.take(),
            )
        )

    def _abandon(self, name: str, message: Message) -> None:
        """Take what a client says that is too late, and have it forget its round.

        What it has encoded is decoded all the same, so that its references and the server's stay alike; one that is
        lost here will be noticed again when it matters.
        """
        if message.WhichOneof("kind") == "activation" and self._body is not None:
            self._body.arrivals.to_train(name, message)
        state = self._states[name]
        state.end_task()
        if not self._clients.peers[name].is_idle:  # else it has just ended the round
            self._clients.send(name, Message(round_abort=RoundAbort()))

    def _end(self, name: str, task: Task, end: RoundEnd) -> Update:
        """A client's update, which weighs by the labels it has been trained on."""
        state, num_samples = self._states[name], self._clients.peers[name].num_samples
        check_round_end(end, task, num_samples, self._config.of_client(name))
        if self._body is None:
            self._note_unseen(name, end, task)
        elif self._config.model.tail_blocks:
            state.counts.loss_sum = end.loss_sum
            state.counts.num_correct = end.num_correct
        is_new = self.renews(is_frozen=task.is_frozen)
        adapter: Mapping[str, torch.Tensor] = self._adapter.tensors
        if is_new:
            adapter = self._adapter.read(name, end.adapter, task.version, task.segment)
        state.end_task()
        state.base_version = task.version
        state.counts.updates += 1
        state.num_released = max(state.num_released, end.num_released)
        state.num_updates = max(state.num_updates, end.num_updates)
        return Update(adapter, task.num_labels, task.version, is_new, name, task.segment)

    def renews(self, *, is_frozen: bool) -> bool:
        """Whether a round ends with a new adapter: not if the front is frozen and there is no tail."""
        return not is_frozen or bool(self._config.model.tail_blocks)

    def _note_unseen(self, name: str, end: RoundEnd, task: Task) -> None:
        """Count steps that only the client itself has seen."""
        counts = self._states[name].counts
        task.num_labels = end.num_labels
        counts.steps += end.num_steps
        counts.tokens += end.num_tokens
        counts.loss_sum += end.loss_sum
        counts.num_labels += end.num_labels
        counts.num_correct += end.num_correct
        mean = end.loss_sum / end.num_labels
        total = self._ledger.totals()["total"]
        self._observer.on_step(StepReport(task.round, end.num_steps, end.num_steps, mean, 0.0, total))

    def _encoding(self, name: str, *, again: bool = False) -> Callable[[], bytes] | None:
        """How to make the packet of what has come of a client's last batch; None if it gets no gradient."""
        state = self._states[name]
        if state.gradient is None or state.task is None:
            return None
        position = (state.task.round, state.task.next_step - 1)
        channel = state.channels["gradient_down"]
        return partial(channel.encode, *state.gradient, position, self_contained=again)

    def _send_gradient(
        self, name: str, arrival: Arrival | None = None, encode: Callable[[], bytes] | None = None
    ) -> None:
        """Send what has come of this batch; without one, once more what has been sent before."""
        state, body = self._states[name], self._body
        assert state.task is not None and body is not None
        message = Gradient(step=state.task.next_step - 1, pause=state.task.is_pausing)
        encode = encode if arrival else self._encoding(name, again=True)
        if encode is not None:
            with self._clients.phases("encode"):
                packet = encode() if arrival is None else body.packed_gradient(name, arrival, encode)
            if packet is None:
                return
            message.gradient = packet
        self._clients.send(name, Message(gradient=message))
