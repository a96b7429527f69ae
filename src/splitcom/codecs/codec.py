"""A codec: a chain of stages that turns a ragged batch into a packet and back. Holds no state.

              reference ┐                                                 ┌ reference
    batch ─► temporal ─► delta ─► transform ─► number ─► entropy ─► packet ─► the same backwards ─► batch
             (skip)                               │                                                    ║
             reconstruction ◄─ delta ◄─ inverse ◄─┘            bit for bit the same ═══════════════════╝

Closed loop: both sides put the same reconstruction, rounded to the store's precision, into a store each, so
errors do not add up from one packet to the next. What turns codes into numbers uses elementwise fp32
operations in a defined order only: no sums, no matrix products, no fused multiply-add. Their result is the
same on every machine, device and number of threads. What only the sender does (similarity, SVD) may differ.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Generator, Tensor

from splitcom.codecs.packet import read_prefix, write_prefix
from splitcom.codecs.projection import Projection
from splitcom.codecs.ragged import Ragged
from splitcom.codecs.references import Reference, ReferenceStore
from splitcom.codecs.stage import MAX_MAGNITUDE, Entropy, Number, Stage, Transform
from splitcom.codecs.temporal import Delta, Temporal
from splitcom.codecs.wire import (
    HEADER_BYTES,
    Bools,
    Buffer,
    Header,
    Ints,
    Reader,
    num_bool_bytes,
    pack_bools,
    tensor_bytes,
    uint_width,
    unpack_bools,
)
from splitcom.errors import CodecError, NonFiniteError, PacketError

_Project: TypeAlias = Callable[[Tensor, Ints], Tensor]

_MAX_BATCH = _MAX_HIDDEN = 0xFFFF


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """What the sender gets."""

    packet: bytes
    reconstruction: Ragged
    """fp32, what the receiver will have; may share memory with the batch. NaN where the sender cannot know it: in
    skipped samples of which it keeps a projection only."""
    skipped: Tensor
    """bool `[batch]`: samples of which nothing was sent."""
    num_skipped_tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """What the receiver gets: `batch` (fp32) equals the sender's reconstruction bit for bit."""

    batch: Ragged
    ids: list[int]
    skipped: Tensor
    """bool `[batch]`: samples of which nothing was sent."""


@dataclass(frozen=True, slots=True)
class Knob:
    """What may be set from batch to batch: a number that decides how much is sent."""

    name: Literal["threshold", "step"]
    """Of a gate, or of a quantiser."""
    value: float
    """What the codec's text says."""
    limits: tuple[float, float]
    """The lowest and the highest value that make sense."""
    saves_upwards: bool
    """Whether less is sent the higher it is."""


class _Rows:
    """Some of the tokens of a batch: `chosen` is bool `[tokens]`."""

    def __init__(self, chosen: Bools, lengths: Ints, device: torch.device | str) -> None:
        self.counts: Ints = np.add.reduceat(chosen, np.cumsum(lengths) - lengths, dtype=np.int64)
        """Chosen tokens of each sample, `[batch]`."""
        self.lengths = self.counts[self.counts > 0]
        """The same, of samples with any."""
        self._index = None if chosen.all() else torch.from_numpy(np.flatnonzero(chosen)).to(device)

    def of(self, values: Tensor) -> Tensor:
        """The chosen rows of `values` `[tokens, hidden]`; `values` itself where that is all of them."""
        return values if self._index is None else values.index_select(0, self._index)

    def over(self, values: Tensor, rows: Tensor) -> Tensor:
        """`values` with its chosen rows set to `rows`, in place; `rows` itself where that is all of them."""
        return rows if self._index is None else values.index_put_((self._index,), rows)


@dataclass(frozen=True)
class Codec:
    """A chain of stages; make one with `splitcom.codecs.parse`.

    `stages` holds at most one per place, in the order of the places, and exactly one number format.
    """

    stages: tuple[Stage, ...]

    def __str__(self) -> str:
        """The canonical text."""
        return " > ".join(map(str, self.stages))

    @property
    def needs_references(self) -> bool:
        """Whether `encode` and `decode` must be given a reference store."""
        return self._temporal is not None or self._delta

    @property
    def knob(self) -> Knob | None:
        """What `encode` takes as its `threshold`: that of the `temporal` stage; None where the codec has none."""
        if self._temporal is None:
            return None
        saves_upwards = self._temporal.metric != "cosine"
        return Knob("threshold", self._temporal.threshold, self._temporal.limits, saves_upwards)

    @property
    def keeps_projections(self) -> bool:
        """Whether the sender keeps no whole references, and so does not know all that the receiver has."""
        return self._projection is not None

    @cached_property
    def fingerprint(self) -> int:
        """16 bits of a hash of the canonical text; part of every packet."""
        return zlib.crc32(str(self).encode()) & 0xFFFF

    def encode(
        self,
        batch: Ragged,
        ids: Sequence[int],
        references: ReferenceStore | None = None,
        *,
        threshold: float | None = None,
        self_contained: bool = False,
        seed: int = 0,
        projection_seed: int = 0,
    ) -> Encoded:
        """Make a packet of `batch`, and put what the receiver will have into `references`.

        Args:
            batch: float tensor of any precision and device; coded as fp32.
            ids: sample ids `[batch]`, at least 0, none twice.
            references: this side's store; None where the codec needs none.
            threshold: in place of the value of the codec's `knob`, for this batch: a gate's threshold or, where it is
                a step, the step.
            self_contained: use no reference: the answer to "unknown reference".
            seed: of stochastic stages; the receiver needs none.
            projection_seed: of the `projection` stage; the same for all batches that share `references`.

        Raises:
            NonFiniteError: a value is NaN, infinite or above 1e34.
            CodecError: arguments that do not fit each other.
            In both cases the store is as it was.
        """
        ids = [int(sample_id) for sample_id in ids]
        store = self._checked_store(references)
        check_batch(batch, ids, None if store is None else store.hidden, batch.hidden)
        values, lengths = batch.values.detach().float(), batch.lengths.numpy()
        found = store.peek(ids) if store is not None and not self_contained else [None] * len(ids)
        known = still_fit(found, lengths)
        reference = _read(store, ids, lengths, known, batch.hidden, values.device, self._projection)

        project = self._projector(values, store, projection_seed)
        skipped, bitmap = self._skip(values, reference, lengths, known, threshold, project)
        if project is not None and reference is not None:
            reference = torch.full_like(values, math.nan)  # whole, only the receiver has it
        sent = _Rows(~skipped, lengths, values.device)
        residual = sent.of(values)
        if self._delta and reference is not None:
            residual = residual - sent.of(reference)
        generator = torch.Generator(values.device).manual_seed(seed)
        data, restored = self._encode_matrix(residual, sent.lengths, generator)
        reconstruction = Ragged(self._rebuild(restored, reference, sent), batch.lengths)

        body, stored = self._compress(b"".join([bitmap, *data]))
        packet = write_prefix(self.fingerprint, ids, lengths, known, found, batch.hidden, stored) + body
        if store is not None:
            _update(store, ids, reconstruction, sent, known, project)
        return Encoded(packet, reconstruction, torch.from_numpy(sent.counts == 0), int(skipped.sum()))

    def decode(
        self,
        packet: Buffer,
        references: ReferenceStore | None = None,
        *,
        device: torch.device | str = "cpu",
        limit_bytes: int = 1 << 32,
    ) -> Decoded:
        """Read a packet of the same codec, and put the batch into `references` as the sender did.

        Args:
            packet: what `encode` gave.
            references: this side's store; None where the codec needs none.
            device: where the batch is wanted.
            limit_bytes: largest batch (as fp32) that is believed.

        Raises:
            PacketError: these are no bytes that `encode` of this codec gives.
            UnknownReference: the store lacks a reference, or holds another one than the sender. In the second
                case all that the packet builds on are named: it carries one digest for all.
            In both cases the store is as it was.
        """
        store = self._checked_store(references)
        reader = Reader(packet)
        header = self._header(reader)
        if header.changes_step:
            raise PacketError(f'the packet changes the step, but "{self}" has none')
        ids, lengths, known = read_prefix(reader, header, store, limit_bytes)
        reference = _read(store, ids, lengths, known, header.hidden, device)

        body = Reader(self._decompress(reader.rest(), header, lengths), device)
        skipped = self._read_skipped(body, lengths, known)
        sent = _Rows(~skipped, lengths, device)
        restored = self._decode_matrix(body, sent.lengths, header.hidden, device)
        body.finish()
        values = self._rebuild(restored, reference, sent)
        low, high = torch.aminmax(values)
        if not (low > -math.inf and high < math.inf):  # NaN fails both
            raise PacketError("the packet holds values that are not finite")
        batch = Ragged(values, torch.from_numpy(lengths))
        if store is not None:
            _update(store, ids, batch, sent, known)
        return Decoded(batch, ids, torch.from_numpy(sent.counts == 0))

    @cached_property
    def _temporal(self) -> Temporal | None:
        return next((stage for stage in self.stages if isinstance(stage, Temporal)), None)

    @cached_property
    def _projection(self) -> Projection | None:
        return next((stage for stage in self.stages if isinstance(stage, Projection)), None)

    @cached_property
    def _delta(self) -> bool:
        return any(isinstance(stage, Delta) for stage in self.stages)

    @cached_property
    def _transform(self) -> Transform | None:
        return next((stage for stage in self.stages if isinstance(stage, Transform)), None)

    @cached_property
    def _number(self) -> Number:
        return next(stage for stage in self.stages if isinstance(stage, Number))

    @cached_property
    def _entropy(self) -> Entropy | None:
        return next((stage for stage in self.stages if isinstance(stage, Entropy)), None)

    def _checked_store(self, references: ReferenceStore | None) -> ReferenceStore | None:
        return self._given(references) if self.needs_references else None

    def _given(self, references: ReferenceStore | None) -> ReferenceStore:
        if references is None:
            raise CodecError(f'"{self}" needs a reference store, none was given')
        return references

    def _header(self, reader: Reader) -> Header:
        header = Header.unpack(reader)
        if header.fingerprint != self.fingerprint:
            raise PacketError(f'packet of another codec than "{self}"')
        return header

    def _projector(self, values: Tensor, store: ReferenceStore | None, seed: int) -> _Project | None:
        """What turns values into what the sender keeps of them; None where that is all."""
        if self._projection is None or store is None:
            return None
        if store.hidden is None:
            store.basis = self._projection.fit(values)
        return partial(self._projection.reduce, seed=seed, basis=store.basis)

    def _skip(
        self,
        values: Tensor,
        reference: Tensor | None,
        lengths: Ints,
        known: Bools,
        threshold: float | None,
        project: _Project | None,
    ) -> tuple[Bools, bytes]:
        """Which tokens not to send, and the bitmap that tells the receiver."""
        if self._temporal is None:
            if threshold is not None:
                raise CodecError(f'threshold {threshold:g} is given, but "{self}" has no temporal stage')
            return np.zeros(len(values), np.bool_), b""
        if reference is None:
            return np.zeros(len(values), np.bool_), b""
        limit = self._temporal.threshold if threshold is None else threshold
        seen = values if project is None else project(values, lengths)
        whole = values if self._projection is not None and self._projection.unbiased else None
        similar = self._temporal.similar(self._temporal.measure(seen, reference, lengths, whole), limit)
        units = self._temporal.units(known, lengths)
        return self._temporal.tokens(similar & units, lengths), pack_bools(similar[units])

    def _read_skipped(self, body: Reader, lengths: Ints, known: Bools) -> Bools:
        """Inverse of `_skip`."""
        if self._temporal is None or not known.any():
            return np.zeros(lengths.sum(), np.bool_)
        units = self._temporal.units(known, lengths)
        count = int(units.sum())
        skipped = np.zeros(len(units), np.bool_)
        skipped[units] = unpack_bools(body.take(num_bool_bytes(count), "skip bitmap"), count)
        return self._temporal.tokens(skipped, lengths)

    def _encode_matrix(
        self, values: Tensor, lengths: Ints, generator: Generator
    ) -> tuple[list[Buffer], Tensor]:
        """Bytes of `values` `[rows, hidden]`, and what `_decode_matrix` will make of them."""
        if not len(values):
            return [], values
        if self._transform is None:
            return self._number.encode(values, generator)
        side, parts = self._transform.forward(values, lengths, generator)
        coded = [self._number.encode(part, generator) for part in parts]
        restored = self._transform.inverse(side, [part for _, part in coded], lengths, values.shape[1])
        return [side, *(item for data, _ in coded for item in data)], restored

    def _decode_matrix(self, body: Reader, lengths: Ints, hidden: int, device: torch.device | str) -> Tensor:
        if not len(lengths):
            return torch.empty(0, hidden, device=device)
        if self._transform is None:
            return self._number.decode(body, int(lengths.sum()), hidden)
        side = body.take(
            self._transform.side_size(lengths, hidden), f"{self._transform.name} side information"
        )
        parts = [self._number.decode(body, *shape) for shape in self._transform.shapes(lengths, hidden)]
        return self._transform.inverse(side, parts, lengths, hidden)

    def _rebuild(self, restored: Tensor, reference: Tensor | None, sent: _Rows) -> Tensor:
        """The whole batch from what was sent and what was known; the same code on both sides."""
        if reference is None:
            return restored
        if self._delta:
            restored = restored.add_(
                sent.of(reference)
            )  # in place: `restored` is never the caller's memory here
        return sent.over(reference, restored)

    def _compress(self, body: bytes) -> tuple[bytes, bool]:
        """The body as it is sent, and whether it was left as it is."""
        if self._entropy is None:
            return body, False
        short = self._entropy.compress(body)
        return (short, False) if len(short) < len(body) else (body, True)

    def _decompress(self, data: Buffer, header: Header, lengths: Ints) -> Buffer:
        if self._entropy is None or header.stored:
            return data
        tokens, hidden = int(lengths.sum()), header.hidden
        shapes = [(tokens, hidden)]
        limit_bytes = num_bool_bytes(tokens)
        if self._transform is not None:
            shapes = self._transform.shapes(lengths, hidden)
            limit_bytes += self._transform.side_size(lengths, hidden)
        limit_bytes += sum(self._number.size(*shape) for shape in shapes)
        return self._entropy.decompress(data, limit_bytes)


def uncompressed_size(ids: Sequence[int], lengths: Sequence[int], hidden: int) -> int:
    """Bytes of the packet that the plain "fp16" codec makes of such a batch: the ledger's yardstick.

    >>> uncompressed_size([3, 700], [10, 20], hidden=8)
    496
    """
    prefix = HEADER_BYTES + len(ids) * uint_width(ids) + len(lengths) * uint_width(lengths)
    return prefix + 2 * int(sum(lengths)) * hidden


def still_fit(found: Sequence[Reference | None], lengths: Ints) -> Bools:
    """Which samples `[batch]` have a reference of their present length."""
    return np.array([old is not None and old.length == n for old, n in zip(found, lengths, strict=True)])


def check_batch(batch: Ragged, ids: list[int], held_width: int | None, width: int) -> None:
    """Raise CodecError or NonFiniteError for what cannot be coded, or needs other references than are held."""
    if len(ids) != len(batch.lengths):
        raise CodecError(f"{len(ids)} sample ids for {len(batch.lengths)} samples")
    if len(set(ids)) != len(ids) or min(ids) < 0 or max(ids) >= 2**63:
        raise CodecError(f"sample ids must differ and lie in 0 to 2**63 - 1: {ids}")
    if len(ids) > _MAX_BATCH or batch.hidden > _MAX_HIDDEN:
        raise CodecError(
            f"batch {len(ids)} and hidden {batch.hidden} must not exceed {_MAX_BATCH} and {_MAX_HIDDEN}"
        )
    if held_width not in (None, width):
        raise CodecError(f"values of width {width}, but the store holds references of {held_width}")
    low, high = torch.aminmax(batch.values.detach())
    if not (low >= -MAX_MAGNITUDE and high <= MAX_MAGNITUDE):  # NaN fails both
        wrong = ~(batch.values.detach().abs() <= MAX_MAGNITUDE).all(1).cpu()
        samples = np.array(ids)[
            np.unique(np.repeat(np.arange(len(ids)), batch.lengths.numpy())[wrong.numpy()])
        ]
        raise NonFiniteError(
            f"NaN, infinity or a magnitude above {MAX_MAGNITUDE:g} in sample ids {samples.tolist()}; "
            "lower the learning rate or clip gradients"
        )


def _read(
    store: ReferenceStore | None,
    ids: list[int],
    lengths: Ints,
    known: Bools,
    hidden: int,
    device: torch.device | str,
    projection: Projection | None = None,
) -> Tensor | None:
    """The references of a batch or their projections, fp32 `[tokens, hidden or dim]`, zeros where there is none.

    None if all lack.
    """
    if store is None or not known.any():
        return None
    wanted = [sample_id for sample_id, is_known in zip(ids, known, strict=True) if is_known]
    width = hidden if projection is None else projection.dim
    if store.reduced != (projection is not None):
        raise CodecError(f"the store keeps {'no ' * store.reduced}whole references: it is of another codec")
    if projection is None:
        held = store.read(wanted).to(device)
    else:
        held = Projection.unpack(store.read_kept(wanted), int(lengths[known].sum())).to(device)
    if held.shape[1] != width:
        raise CodecError(
            f"the store keeps {held.shape[1]} numbers per token, {width} are needed: it is of another codec"
        )
    rows = _Rows(np.repeat(known, lengths), lengths, device)
    return held if known.all() else rows.over(held.new_zeros(int(lengths.sum()), width), held)


def _update(
    store: ReferenceStore,
    ids: list[int],
    batch: Ragged,
    sent: _Rows,
    known: Bools,
    project: _Project | None = None,
) -> None:
    changed, lengths = sent.counts > 0, batch.lengths.numpy()
    values = _Rows(np.repeat(changed, lengths), lengths, batch.values.device).of(batch.values)
    kept = None
    if project is not None:
        packed = Projection.pack(project(values, lengths[changed]))
        kept = [tensor_bytes(rows) for rows in torch.split(packed, lengths[changed].tolist())]
    store.update(ids, lengths, values, changed=changed, known=known, kept=kept)
