"""The adapter that all clients share, as they have it: rounded to what is sent; knows nothing of scheduling."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch

from splitcom.aggregation import Aggregator, Update
from splitcom.errors import NonFiniteError, RemoteProtocolError
from splitcom.protocol.adapters import pack_adapter, unpack_adapter
from splitcom.protocol.messages_pb2 import EvaluationStart, RoundStart
from splitcom.server.conversations import Peer
from splitcom.state import State
from splitcom.training.optimize import DIVERGED
from splitcom.training.store import sections_of

_Start = TypeVar("_Start", RoundStart, EvaluationStart)


class SharedAdapter:
    """`tensors` and their `version`, which counts from 1; the server goes on with the numbers that clients get."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], dtype: str, aggregator: Aggregator) -> None:
        self.aggregator = aggregator
        self._dtype = getattr(torch, dtype)
        self.version = 1
        self.tensors = self._as_sent(tensors)

    def merge(self, updates: Sequence[Update]) -> None:
        """Make the next version of what clients have made of this one, if any of them has changed it.

        Raises NonFiniteError if the result cannot be sent.
        """
        if new := [update for update in updates if update.is_new]:
            merged = self.aggregator.merge(self.tensors, new)
            limit = torch.finfo(self._dtype).max
            if not all(
                (tensor.abs() <= limit).all() for tensor in merged.values()
            ):  # not so if there is a NaN
                raise NonFiniteError(
                    f"the adapter that {self.aggregator} gives holds numbers above {limit:g}; {DIVERGED}"
                )
            self.tensors = self._as_sent(merged)
            self.version += 1

    def state(self) -> State:
        """What a checkpoint keeps."""
        aggregator = self.aggregator.state()
        tensors = {f"now.{name}": tensor for name, tensor in self.tensors.items()}
        tensors |= {f"aggregator.{name}": tensor for name, tensor in aggregator.tensors.items()}
        return State(tensors, {"version": self.version, "aggregator": aggregator.scalars})

    def load_state(self, state: State) -> None:
        """Go back to a version that has been kept."""
        sections = sections_of(state.tensors)
        self.tensors, self.version = sections["now"], state.scalars["version"]
        self.aggregator.load_state(State(sections["aggregator"], state.scalars["aggregator"]))

    def offer(self, peer: Peer, message: _Start) -> _Start:
        """Put the adapter into a message, but for a client that holds this version already."""
        message.adapter_version = self.version
        if peer.adapter_version != self.version:
            message.adapter = pack_adapter(self.tensors, self._dtype)
            peer.adapter_version = self.version
        return message

    def read(self, data: bytes) -> dict[str, torch.Tensor]:
        """A client's adapter; raises RemoteProtocolError where it is malformed, or of another model.

        Also where it holds numbers so large that an average could not be sent on.
        """
        adapter = unpack_adapter(data)
        theirs = {name: tensor.shape for name, tensor in adapter.items()}
        if theirs != {name: tensor.shape for name, tensor in self.tensors.items()}:
            raise RemoteProtocolError(
                f"an adapter of {len(theirs)} tensors whose names or shapes are not the model's"
            )
        limit = torch.finfo(self._dtype).max
        for name, tensor in adapter.items():
            if (tensor.abs() > limit).any():
                raise RemoteProtocolError(f"tensor {name!r} of an adapter holds numbers above {limit:g}")
        return adapter

    def _as_sent(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return unpack_adapter(pack_adapter(state, self._dtype))
