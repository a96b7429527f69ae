"""The engine as steps use it: a client whose batch spoils a step is refused, and the step taken without it.

If it is nobody's batch, or everybody's, training has diverged: the engine's NonFiniteError goes on.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from time import perf_counter

import torch

from splitcom.codecs import Ragged
from splitcom.engines.engine import Arrival, Engine, Gradient, Passage, Position, StepResult
from splitcom.errors import NonFiniteError, OutOfRangeError
from splitcom.server.conversations import Conversations
from splitcom.training.optimize import DIVERGED

_NARROWEST = torch.finfo(torch.float16).max  # the range that a codec may be limited to

SPOILT = (
    f"with its batch, and not without it, loss or gradients are not finite: its {DIVERGED}; or it is damaged"
)


class SoundEngine:
    """An engine, its clients, and for how long it has computed."""

    def __init__(self, engine: Engine, clients: Conversations) -> None:
        self._seconds = 0.0
        self._engine = engine
        self._clients = clients
        self._has_fit: defaultdict[str, set[str]] = defaultdict(
            set
        )  # clients whose packets could be made, by flow

    def step(
        self, arrivals: Mapping[str, Arrival], position: Position, progress: float
    ) -> dict[str, StepResult]:
        """A step of the clients whose batches are sound."""
        while arrivals:
            try:
                with self._timed():
                    return self._engine.step(arrivals, position, progress)
            except NonFiniteError as error:
                arrivals = self._without_spoilers(arrivals, {}, error)
        return {}

    def forward(
        self, arrivals: Mapping[str, Arrival], position: Position, *, trains: bool
    ) -> tuple[Passage | None, Mapping[str, Arrival]]:
        """The first half of a step, and the clients that have a part in it."""
        while arrivals:
            try:
                with self._timed():
                    return self._engine.forward(arrivals, position, trains=trains), arrivals
            except NonFiniteError as error:
                arrivals = self._without_spoilers(arrivals, {}, error)
        return None, {}

    def backward(
        self,
        passage: Passage,
        gradients: Mapping[str, Gradient],
        arrivals: Mapping[str, Arrival],
        progress: float,
    ) -> dict[str, StepResult]:
        """The second half of a step, of the clients whose gradients are sound."""
        while gradients:
            try:
                with self._timed():
                    return self._engine.backward(passage, gradients, progress)
            except NonFiniteError as error:
                own = {name: arrivals[name] for name in gradients}
                left = self._without_spoilers(own, gradients, error)
                gradients = {name: gradients[name] for name in left}
        return {}

    def pass_held_out(self, name: str, arrival: Arrival) -> Ragged | None:
        """What a client's tail gets of a held-out batch; None if that is not finite and the client is refused."""
        try:
            return self._engine.pass_held_out(arrival)
        except NonFiniteError as error:
            self._without_spoilers({name: arrival}, {}, error)
            return None

    def evaluate(self, name: str, arrival: Arrival) -> StepResult | None:
        """What comes of a held-out batch; None if its loss is not finite and the client is refused."""
        result = self._engine.evaluate(arrival)
        if isfinite(result.loss_sum):
            return result
        error = NonFiniteError(f"{name}: the loss of a held-out batch is {result.loss_sum}; {DIVERGED}")
        self._without_spoilers({name: arrival}, {}, error)
        return None

    def packed(
        self,
        name: str,
        flow: str,
        arrival: Arrival,
        encode: Callable[[], bytes],
        gradient: Gradient | None = None,
    ) -> bytes | None:
        """The packet of what comes of a client's batch; None if its codec cannot hold it and the client is refused.

        If nobody else's could be held either, it is the codec that does not fit the model; if the batch is sound, it is
        the training that has diverged. Then the error of `encode` goes on, NonFiniteError or OutOfRangeError.
        """
        try:
            packet = encode()
        except (NonFiniteError, OutOfRangeError) as error:
            others = (self._has_fit[flow] & {*self._clients.present}) - {name}
            if not others or self._engine.is_sound(arrival, gradient, _NARROWEST):
                raise
            self._clients.refuse(name, str(error))
            return None
        self._has_fit[flow].add(name)
        return packet

    def _without_spoilers(
        self, arrivals: Mapping[str, Arrival], gradients: Mapping[str, Gradient], error: NonFiniteError
    ) -> dict[str, Arrival]:
        """The arrivals of a step that cannot be taken but those that spoil it, whose clients are refused."""
        spoilers = [
            name for name, own in arrivals.items() if not self._engine.is_sound(own, gradients.get(name))
        ]
        if not spoilers or set(spoilers) == set(self._clients.present):
            raise error
        for name in spoilers:
            self._clients.refuse(name, SPOILT)
        return {name: own for name, own in arrivals.items() if name not in spoilers}

    def take_seconds(self) -> float:
        """What the steps since the last call have taken."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = perf_counter()
        yield
        self._seconds += perf_counter() - started
