"""The adapter that all clients share, as they have it: rounded to what is sent; knows nothing of scheduling."""

from collections.abc import Mapping
from typing import TypeVar

import torch

from splitcom.errors import RemoteProtocolError
from splitcom.protocol.adapters import pack_adapter, unpack_adapter
from splitcom.protocol.messages_pb2 import EvaluationStart, RoundStart
from splitcom.server.conversations import Peer

_Start = TypeVar("_Start", RoundStart, EvaluationStart)


class SharedAdapter:
    """`state` and its `version`, which counts from 1; the server goes on with the numbers that clients get."""

    def __init__(self, state: Mapping[str, torch.Tensor], dtype: str) -> None:
        self._dtype = getattr(torch, dtype)
        self.version = 1
        self.state = self._as_sent(state)

    def replace(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put the next version in its place."""
        self.state = self._as_sent(state)
        self.version += 1

    def restore(self, state: Mapping[str, torch.Tensor], version: int) -> None:
        """Go back to a version that has been kept."""
        self.state, self.version = dict(state), version

    def offer(self, peer: Peer, message: _Start) -> _Start:
        """Put the adapter into a message, but for a client that holds this version already."""
        message.adapter_version = self.version
        if peer.adapter_version != self.version:
            message.adapter = pack_adapter(self.state, self._dtype)
            peer.adapter_version = self.version
        return message

    def read(self, data: bytes) -> dict[str, torch.Tensor]:
        """A client's adapter; raises RemoteProtocolError where it is malformed, or of another model.

        Also where it holds numbers so large that an average could not be sent on.
        """
        adapter = unpack_adapter(data)
        theirs = {name: tensor.shape for name, tensor in adapter.items()}
        if theirs != {name: tensor.shape for name, tensor in self.state.items()}:
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
