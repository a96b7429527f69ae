"""An adapter as a packet of a codec: each tensor is a sample. Knows no message, no version and no party.

    {name: tensor} ─► by name ─► rows of 64 numbers, the last filled up with 0 ─► Ragged, ids 0, 1, … ─► codec

LoRA's matrices A may have a codec of their own: then there are two packets, that of all other tensors first.

Names and shapes are known to both ends, so they are not sent. A codec that builds on references finds them in `base`,
which both ends have: they fill a store with it for each packet, and the packet's digest tells if the two differ.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from splitcom.codecs import Codec, Context, MemoryReferences, Ragged, parse, uncompressed_size
from splitcom.codecs.wire import Reader, pack_uints, tensor_bytes, unpack_uints
from splitcom.config.flows import AdapterFlowConfig
from splitcom.errors import NonFiniteError, PacketError, UnknownReference
from splitcom.training.optimize import DIVERGED

Tensors = Mapping[str, Tensor]
_WIDTH = 64  # a group of the quantisers: a row has scales of its own
_SIZE_BYTES = 4
_LIMIT = 65504.0  # the largest of fp16: what is there already has diverged, or was cut off


class AdapterCodec:
    """Codes adapters with the codec of this text, LoRA's A with that of `text_a` if there is one; holds no state."""

    def __init__(self, text: str, text_a: str | None = None) -> None:
        self._whole = _TensorsCodec(text)
        self._of_a = None if text_a is None else _TensorsCodec(text_a)

    @property
    def needs_base(self) -> bool:
        """Whether a packet builds on an adapter that both ends have."""
        return self._whole.needs_base or (self._of_a is not None and self._of_a.needs_base)

    def encode(
        self, adapter: Tensors, base: Tensors, seed: int = 0, share: float | None = None
    ) -> tuple[bytes, dict[str, Tensor]]:
        """A packet, and what its receiver will have: fp32, by name. An empty adapter is no bytes.

        `base` has the names and shapes of `adapter`; its numbers count only if the codec `needs_base`. `share` is that
        of `Context`. Raises NonFiniteError if a number is NaN, infinite or beyond what fp16 holds.
        """
        if self._of_a is None or not adapter:
            return self._whole.encode(adapter, base, seed, share)
        (others, of_a), (base_of_others, base_of_a) = parted(adapter), parted(base)
        first, arrived = self._whole.encode(others, base_of_others, seed, share)
        second, arrived_of_a = self._of_a.encode(of_a, base_of_a, seed, share)
        return pack_uints([len(first)], _SIZE_BYTES) + first + second, dict(
            sorted((arrived | arrived_of_a).items())
        )

    def decode(self, packet: bytes, base: Tensors) -> dict[str, Tensor]:
        """What `encode` gave beside this packet: fp32 on the CPU, with the names and shapes of `base`.

        Raises PacketError if the packet is malformed, not of such an adapter, builds on another base, or holds numbers
        that `encode` would not send.
        """
        if self._of_a is None or not base:
            return self._whole.decode(packet, base)
        reader = Reader(packet)
        (size,) = unpack_uints(reader.take(_SIZE_BYTES, "size of its first part"), _SIZE_BYTES).tolist()
        first, second = bytes(reader.take(size, "first part")), bytes(reader.rest())
        others, of_a = parted(base)
        return dict(sorted((self._whole.decode(first, others) | self._of_a.decode(second, of_a)).items()))


class AdapterSender:
    """Encodes a series of adapters, or of pieces of one.

    With `error_feedback` what has not arrived of a tensor is added to it the next time (Seide et al. 2014), and
    `residual` has it, by name; a tensor that is sent for the first time has none.
    """

    def __init__(self, settings: AdapterFlowConfig) -> None:
        self.codec = AdapterCodec(settings.codec, settings.codec_a)
        self.residual: dict[str, Tensor] = {}
        self._keeps = settings.error_feedback

    def encode(
        self, adapter: Tensors, base: Tensors, seed: int, share: float | None = None
    ) -> tuple[bytes, dict[str, Tensor]]:
        """As AdapterCodec has it."""
        due = {
            name: tensor.detach().cpu().float() + self.residual[name] if name in self.residual else tensor
            for name, tensor in adapter.items()
        }
        packet, arrived = self.codec.encode(due, base, seed, share)
        if self._keeps:
            for name, tensor in due.items():
                self.residual[name] = tensor.detach().cpu().float() - arrived[name]
        return packet, arrived


class _TensorsCodec:
    """Codes tensors by name with the codec of this text."""

    def __init__(self, text: str) -> None:
        self._codec: Codec = parse(text)

    @property
    def needs_base(self) -> bool:
        return self._codec.needs_references

    def encode(
        self, adapter: Tensors, base: Tensors, seed: int, share: float | None
    ) -> tuple[bytes, dict[str, Tensor]]:
        if not adapter:
            return b"", {}
        batch = _rows_of(adapter)
        _check(batch)
        ids = range(len(adapter))
        encoded = self._codec.encode(batch, ids, Context(self._references(base), seed=seed, share=share))
        _check(encoded.reconstruction)  # a codec may round up
        return encoded.packet, _adapter_of(encoded.reconstruction, adapter)

    def decode(self, packet: bytes, base: Tensors) -> dict[str, Tensor]:
        if not base and not packet:
            return {}
        expected = _rows_of(base) if base else None
        if expected is None or not packet:
            raise PacketError(f"an adapter of {len(packet)} bytes; the model's has {len(base)} tensors")
        try:
            decoded = self._codec.decode(
                packet, self._references(base), limit_bytes=expected.values.numel() * 4
            )
        except UnknownReference as error:
            raise PacketError(f"an adapter that builds on another one than is held here: {error}") from error
        batch = decoded.batch
        if (
            decoded.ids != list(range(len(base)))
            or batch.hidden != _WIDTH
            or not torch.equal(batch.lengths, expected.lengths)
        ):
            raise PacketError(f"an adapter of {len(decoded.ids)} tensors whose sizes are not the model's")
        if not (batch.values.abs() < _LIMIT).all():
            raise PacketError(f"an adapter with numbers that are not below {_LIMIT:g}")
        return _adapter_of(batch, base)

    def _references(self, base: Tensors) -> MemoryReferences | None:
        if not self.needs_base:
            return None
        held = _rows_of(base)
        store, count = MemoryReferences("fp32"), len(base)
        store.update(
            range(count),
            held.lengths.numpy(),
            held.values,
            changed=np.ones(count, dtype=bool),
            known=np.zeros(count, dtype=bool),
        )
        return store


def parted(adapter: Tensors) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All tensors but LoRA's A, and those."""
    of_a = {
        name: tensor for name, tensor in adapter.items() if ".lora_A." in name or "lora_embedding_A" in name
    }
    return {name: tensor for name, tensor in adapter.items() if name not in of_a}, of_a


def _check(batch: Ragged) -> None:
    if not (batch.values.abs() < _LIMIT).all():  # not so if there is a NaN
        raise NonFiniteError(f"the adapter holds numbers that are not below {_LIMIT:g}; {DIVERGED}")


def uncompressed_adapter_size(adapter: Tensors) -> int:
    """Bytes of the packet that the plain "fp16" codec makes of it: the ledger's yardstick."""
    if not adapter:
        return 0
    lengths = [_num_rows(tensor) for tensor in adapter.values()]
    return uncompressed_size(range(len(adapter)), lengths, _WIDTH)


def digest_of(adapter: Tensors) -> bytes:
    """Eight bytes that tell whether two adapters have the same names, shapes and numbers (as fp32)."""
    digest = hashlib.sha256()
    for name in sorted(adapter):
        digest.update(f"{name} {list(adapter[name].shape)}\n".encode())
        digest.update(tensor_bytes(adapter[name].float()))
    return digest.digest()[:8]


def num_rows_of(adapter: Tensors) -> tuple[int, int]:
    """How many rows an adapter takes in a packet, and how many numbers are in one."""
    return sum(map(_num_rows, adapter.values())), _WIDTH


def _num_rows(tensor: Tensor) -> int:
    return max(-(-tensor.numel() // _WIDTH), 1)


def _rows_of(adapter: Tensors) -> Ragged:
    """All tensors as fp32 rows, one after the other by name."""
    tensors = [adapter[name] for name in sorted(adapter)]
    lengths = [_num_rows(tensor) for tensor in tensors]
    values = torch.zeros(sum(lengths), _WIDTH)
    row = 0
    for tensor, length in zip(tensors, lengths, strict=True):
        values[row : row + length].view(-1)[: tensor.numel()] = tensor.detach().flatten().cpu()
        row += length
    return Ragged(values, torch.tensor(lengths))


def _adapter_of(batch: Ragged, like: Tensors) -> dict[str, Tensor]:
    """The tensors of such rows; they share no memory with the batch."""
    tensors, row = {}, 0
    for name, length in zip(sorted(like), batch.lengths.tolist(), strict=True):
        shape = like[name].shape
        numbers = batch.values[row : row + length].reshape(-1)[: shape.numel()]
        tensors[name] = numbers.reshape(shape).float().clone()
        row += length
    return tensors
