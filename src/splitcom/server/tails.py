"""The server's side of a step in the U-shape: hidden states go to the clients' tails, and gradients come back.

    activation_up ─► body forward ─► activation_down ─► (tail, loss, labels)
                                                                 │
    gradient_down ◄─ body backward, step ◄──────── gradient_up ◄─┘

A client that is lost in between has no part in the step.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

from splitcom.codecs import Ragged
from splitcom.engines.local import Arrival, BodyTrainer, Passage, StepResult
from splitcom.errors import NonFiniteError
from splitcom.protocol.messages_pb2 import ActivationDown, EvaluationDown, Message
from splitcom.server.claims import without_spoilers
from splitcom.server.conversations import Conversations, Ended

Gradient = tuple[Ragged | None, int]
"""At the tail's input, None where the body is frozen, and the number of labelled tokens."""


class Tails:
    """The tails of all clients, as the server reaches them."""

    def __init__(self, body: BodyTrainer, clients: Conversations) -> None:
        self._body = body
        self._clients = clients

    def step(
        self,
        arrivals: Mapping[str, Arrival],
        position: tuple[int, int],
        packet_position: tuple[int, int],
        progress: float,
    ) -> tuple[dict[str, StepResult], float]:
        """One optimisation step of the body at `position`, whose packets are those of `packet_position`.

        Returns the results of those clients who were there to the end, and the seconds the body has computed. Raises
        Rejoined.
        """
        started = perf_counter()
        trains = not any(self._is_frozen(name) for name in arrivals)
        passage, arrivals = self._forward(arrivals, position, trains)
        seconds = perf_counter() - started
        passing = {
            name: _Passing(
                name,
                arrival,
                replace(passage.out_of(name), learnt=arrival.decoded.batch.learnt),
                packet_position,
            )
            for name, arrival in arrivals.items()
        }
        for one in passing.values():
            self._send_hidden(one)
        gradients: dict[str, Gradient] = {}
        for name, message in self._clients.collect(arrivals).items():
            with suppress(Ended):
                one = passing[name]
                message = self._clients.caught_up(
                    name, message, partial(self._send_hidden, one, self_contained=True)
                )
                gradients[name] = self._clients.settle(name, message, partial(self._read_gradient, one))
        if not gradients:
            return {}, seconds
        started = perf_counter()
        results = self._backward(passage, gradients, arrivals, position, progress)
        return results, seconds + perf_counter() - started

    def _forward(
        self, arrivals: Mapping[str, Arrival], position: tuple[int, int], trains: bool
    ) -> tuple[Passage, Mapping[str, Arrival]]:
        """The first half of a step, without the clients whose batches spoil it."""
        passage = self._body.forward(arrivals, position, trains=trains)
        try:
            passage.check()
        except NonFiniteError:
            rest = without_spoilers(arrivals, lambda name: self._body.is_sound(arrivals[name]), self._clients)
        else:
            return passage, arrivals
        if not rest:
            return passage, {}
        return self._forward({name: arrivals[name] for name in rest}, position, trains)

    def _backward(
        self,
        passage: Passage,
        gradients: Mapping[str, Gradient],
        arrivals: Mapping[str, Arrival],
        position: tuple[int, int],
        progress: float,
    ) -> dict[str, StepResult]:
        """The second half of a step, without the clients whose batches or gradients spoil it."""
        try:
            return self._body.backward(passage, gradients, progress)
        except NonFiniteError:
            rest = without_spoilers(
                gradients,
                lambda name: self._body.is_sound(arrivals[name], gradients[name]),
                self._clients,
            )
        if not rest:
            return {}
        passage = self._body.forward(
            arrivals, position
        )  # again, to the same bits: the first graph is used up
        return self._backward(passage, {name: gradients[name] for name in rest}, arrivals, position, progress)

    def evaluate(self, name: str, arrival: Arrival) -> Message:
        """What to send a client for its tail, of a held-out batch; raises Ended where that is not finite."""
        channel = self._clients.peers[name].channels["evaluation"]
        try:
            hidden = self._body.pass_held_out(arrival)
        except NonFiniteError:
            without_spoilers([name], lambda name: self._body.is_sound(arrival), self._clients)
            raise Ended(name) from None
        packet = channel.encode(hidden, arrival.decoded.ids, (0, 0))
        return Message(evaluation_down=EvaluationDown(activation=packet))

    def _send_hidden(self, one: "_Passing", *, self_contained: bool = False) -> None:
        packet = (
            self._clients.peers[one.name]
            .channels["activation_down"]
            .encode(one.hidden, one.arrival.decoded.ids, one.position, self_contained=self_contained)
        )
        message = ActivationDown(step=one.position[1], activation=packet)
        self._clients.send(one.name, Message(activation_down=message))

    def _is_frozen(self, name: str) -> bool:
        task = self._clients.peers[name].task
        return task is not None and task.is_frozen

    def _read_gradient(self, one: "_Passing", message: Message) -> Gradient:
        channel, content = self._clients.peers[one.name].channels["gradient_up"], message.gradient_up
        num_tokens = len(one.arrival.decoded.batch.values)
        if self._is_frozen(one.name):
            if content.gradient or not 0 < content.num_labels <= num_tokens:
                self._clients.refuse(
                    one.name,
                    f"{len(content.gradient)} bytes of gradient for {content.num_labels} of {num_tokens} tokens, where "
                    "the body is frozen",
                )
            return None, content.num_labels
        decoded = self._clients.parse(one.name, channel.decode, content.gradient, self._body.max_batch_bytes)
        sent, batch = one.arrival.decoded, decoded.batch
        if (decoded.ids, batch.lengths.tolist()) != (sent.ids, sent.batch.lengths.tolist()):
            self._clients.refuse(one.name, "a gradient of other samples or tokens than the activation's")
        if batch.hidden != sent.batch.hidden or not 0 < content.num_labels <= num_tokens:
            self._clients.refuse(
                one.name,
                f"a gradient of width {batch.hidden} for {content.num_labels} of {num_tokens} tokens",
            )
        return batch, content.num_labels


@dataclass(frozen=True)
class _Passing:
    """A client's batch between the two passes of the body."""

    name: str
    arrival: Arrival
    hidden: Ragged
    position: tuple[int, int]
