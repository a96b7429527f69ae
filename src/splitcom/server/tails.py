"""The server's side of a step in the U-shape: hidden states go to the clients' tails, and gradients come back.

    activation_up ─► body forward ─► activation_down ─► (tail, loss, labels)
                                                                 │
    gradient_down ◄─ body backward, step ◄──────── gradient_up ◄─┘

A client that is lost in between has no part in the step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from splitcom.codecs import Ragged
from splitcom.engines.engine import Arrival, Gradient, Position, StepResult
from splitcom.protocol.messages_pb2 import ActivationDown, Message
from splitcom.server.arrivals import Arrivals, Lost
from splitcom.server.conversations import Conversations
from splitcom.server.parallel import at_once
from splitcom.server.recovery import Recovery
from splitcom.server.soundness import SoundEngine
from splitcom.server.state import ClientStates


class Tails:
    """The tails of all clients, as the server reaches them."""

    def __init__(
        self, engine: SoundEngine, arrivals: Arrivals, clients: Conversations, states: ClientStates
    ) -> None:
        self._engine = engine
        self._arrivals = arrivals
        self._clients = clients
        self._states = states
        self.gradients: dict[str, Gradient] = {}  # what the clients of the last step have answered

    def step(
        self,
        arrivals: Mapping[str, Arrival],
        position: Position,
        packet_position: tuple[int, int],
        progress: float,
    ) -> dict[str, StepResult]:
        """One optimisation step of the body at `position`, whose packets are those of `packet_position`.

        Returns the results of those clients who were there to the end. Raises Rejoined.
        """
        trains = not any(task.is_frozen for name in arrivals if (task := self._states[name].task))
        passage, arrivals = self._engine.forward(arrivals, position, trains=trains)
        if passage is None:
            return {}
        passing = {
            name: _Passing(
                name,
                arrival,
                replace(passage.out_of(name), learnt=arrival.decoded.batch.learnt),
                packet_position,
            )
            for name, arrival in arrivals.items()
        }
        packets = at_once({name: partial(self._encode, one) for name, one in passing.items()})
        for name, one in passing.items():
            self._send_hidden(one, packets[name])
        self.gradients = {}
        messages = self._clients.collect(passing)
        answers = {name: one for name, one in messages.items() if one.WhichOneof("kind") == "gradient_up"}
        decoded = at_once({name: partial(self._decode, passing[name], one) for name, one in answers.items()})
        for name, message in self._clients.each(messages):
            with self._clients.refusing(name):
                gradient = self._receive(passing[name], message, decoded.get(name))
                if gradient is not None:
                    self.gradients[name] = gradient
        return self._engine.backward(passage, self.gradients, arrivals, progress)

    def _receive(
        self, one: "_Passing", message: Message | None, decoded: Callable[[], Gradient | Lost] | None
    ) -> Gradient | None:
        """The gradient that a client sends back, when neither side lacks a reference; None if it has left.

        `decoded` gives what `message` holds if that is a gradient.
        """
        recovery = Recovery()
        while message is not None:
            if message.WhichOneof("kind") == "reference_lost":
                recovery.of_client()
                self._send_hidden(one, partial(self._encode, one, self_contained=True))
            else:
                gradient = decoded() if decoded else self._decode(one, message)
                decoded = None
                if not isinstance(gradient, Lost):
                    return gradient
                recovery.of_server()
                self._clients.send(one.name, gradient.answer)
            message = self._clients.next_of(one.name)
        return None

    def _decode(self, one: "_Passing", message: Message) -> Gradient | Lost:
        return self._arrivals.from_tail(one.name, message.gradient_up, one.arrival)

    def _encode(self, one: "_Passing", *, self_contained: bool = False) -> bytes:
        channel = self._states[one.name].channels["activation_down"]
        return channel.encode(
            one.hidden, one.arrival.decoded.ids, one.position, self_contained=self_contained
        )

    def _send_hidden(self, one: "_Passing", encode: Callable[[], bytes]) -> None:
        packet = self._engine.packed(one.name, "activation_down", one.arrival, encode)
        if packet is not None:
            message = ActivationDown(step=one.position[1], activation=packet)
            self._clients.send(one.name, Message(activation_down=message))


@dataclass(frozen=True)
class _Passing:
    """A client's batch between the two passes of the body."""

    name: str
    arrival: Arrival
    hidden: Ragged
    position: tuple[int, int]
