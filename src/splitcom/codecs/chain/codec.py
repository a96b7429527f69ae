"""A chain of stages that turns a ragged batch into a packet and back. Knows what its stages do from `stage` alone.

              reference ┐                                                 ┌ reference
    batch ─► temporal ─► delta ─► transform ─► number ─► entropy ─► packet ─► the same backwards ─► batch
             (skip)                               │                                                    ║
             reconstruction ◄─ delta ◄─ inverse ◄─┘            bit for bit the same ═══════════════════╝

What turns codes into numbers uses elementwise fp32 operations in a defined order only: no sums, no matrix products, no
fused multiply-add. Their result is the same on every machine, device and number of threads. What only the sender does
(similarity, SVD) may differ.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeAlias

import numpy as np
import torch
from torch import Generator, Tensor
from typing_extensions import override

from splitcom.codecs.along import Along
from splitcom.codecs.chain.golomb import Golomb
from splitcom.codecs.chain.number import Float16
from splitcom.codecs.chain.projection import Projection
from splitcom.codecs.chain.rows import Rows
from splitcom.codecs.chain.stage import Entropy, Number, Prediction, Stage, Transform
from splitcom.codecs.chain.temporal import Temporal
from splitcom.codecs.codec import Codec, Context, Decoded, Encoded, Knob, check_batch, still_fit, within
from splitcom.codecs.guess import Guess
from splitcom.codecs.packet import read_prefix, write_prefix
from splitcom.codecs.precision import MAX_MAGNITUDE
from splitcom.codecs.ragged import Ragged
from splitcom.codecs.references import ReferenceStore
from splitcom.codecs.wire import (
    Bools,
    Buffer,
    Header,
    Ints,
    Reader,
    num_bool_bytes,
    pack_bools,
    tensor_bytes,
    unpack_bools,
)
from splitcom.errors import CodecError, PacketError

_Project: TypeAlias = Callable[[Tensor, Ints], Tensor]
_WHOLE = Float16()


@dataclass(frozen=True)
class ChainCodec(Codec):
    """A chain of stages: at most one per place, in the order of the places, and exactly one number format."""

    stages: tuple[Stage, ...]

    @property
    @override
    def elements(self) -> tuple[Stage, ...]:
        return self.stages

    @property
    @override
    def needs_references(self) -> bool:
        return self._temporal is not None or self._prediction is not None

    @property
    @override
    def knob(self) -> Knob | None:
        if self._temporal is None:
            return None
        saves_upwards = self._temporal.metric != "cosine"
        return Knob("threshold", self._temporal.threshold, self._temporal.limits, saves_upwards)

    @property
    @override
    def knows_the_receiver(self) -> bool:
        return self._projection is None

    @override
    def encode(self, batch: Ragged, ids: Sequence[int], context: Context = Context()) -> Encoded:
        self._check(context)
        ids = [int(sample_id) for sample_id in ids]
        store = self._checked_store(context.references)
        check_batch(batch, ids, None if store is None else store.hidden, batch.hidden)
        values, lengths = batch.values.detach().float(), batch.lengths.numpy()
        found = store.peek(ids) if store is not None and not context.self_contained else [None] * len(ids)
        known = still_fit(found, lengths)
        if store is not None and store.largest < MAX_MAGNITUDE:
            known &= within(values, lengths, store.largest)  # what no reference holds builds on none
        reference = _read(store, ids, lengths, known, batch.hidden, values.device, self._projection)

        project = self._projector(values, store, context.flow_seed)
        skipped, bitmap = self._skip(values, reference, lengths, known, context.threshold, project)
        if project is not None and reference is not None:
            reference = torch.full_like(values, math.nan)  # whole, only the receiver has it
        sent = Rows(~skipped, lengths, values.device)
        residual = sent.of(values)
        if self._prediction is not None and reference is not None:
            residual = self._prediction.residual(residual, sent.of(reference))
        generator = torch.Generator(values.device).manual_seed(context.seed)
        data, restored = self._encode_rows(
            self._number_at(context.share), residual, sent.lengths, known[sent.counts > 0], generator
        )
        reconstruction = Ragged(self._rebuild(restored, reference, sent), batch.lengths)

        body, stored = self._compress(b"".join([bitmap, *data]))
        packet = write_prefix(self.fingerprint, ids, lengths, known, found, batch.hidden, stored) + body
        if store is not None:
            _update(store, ids, reconstruction, sent, known, project)
        return Encoded(packet, lambda: reconstruction, torch.from_numpy(sent.counts == 0), int(skipped.sum()))

    @override
    def _decode(
        self,
        packet: Buffer,
        references: ReferenceStore | None,
        limit_bytes: int,
        device: torch.device | str,
        along: Along | None,
        guess: Guess | None,
    ) -> Decoded:
        store = self._checked_store(references)
        reader = Reader(packet)
        header = self.header_of(reader)
        if header.changes_step:
            raise PacketError(f'the packet changes the step, but "{self}" has none')
        ids, lengths, known = read_prefix(reader, header, store, limit_bytes)
        reference = _read(store, ids, lengths, known, header.hidden, device)

        body = Reader(self._decompress(reader.rest(), header, lengths), device)
        skipped = self._read_skipped(body, lengths, known)
        sent = Rows(~skipped, lengths, device)
        restored = self._decode_rows(body, sent.lengths, known[sent.counts > 0], header.hidden, device)
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
    def _prediction(self) -> Prediction | None:
        return next((stage for stage in self.stages if isinstance(stage, Prediction)), None)

    @cached_property
    def _transform(self) -> Transform | None:
        return next((stage for stage in self.stages if isinstance(stage, Transform)), None)

    @cached_property
    def _number(self) -> Number:
        return next(stage for stage in self.stages if isinstance(stage, Number))

    @cached_property
    def _entropy(self) -> Entropy | None:
        return next((stage for stage in self.stages if isinstance(stage, Entropy)), None)

    def _check(self, context: Context) -> None:
        """Refuse what this chain has no stage for."""
        if context.step is not None:
            raise CodecError(f'step {context.step:g} is given, but "{self}" has no step that can be set')
        if context.threshold is not None and self._temporal is None:
            raise CodecError(f'threshold {context.threshold:g} is given, but "{self}" has no temporal stage')

    def _checked_store(self, references: ReferenceStore | None) -> ReferenceStore | None:
        return self.store_of(references) if self.needs_references else None

    def _projector(self, values: Tensor, store: ReferenceStore | None, seed: int) -> _Project | None:
        """What turns values into what the sender keeps of them; None if that is all."""
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
        if self._temporal is None or reference is None:
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

    def _number_at(self, share: float | None) -> Number:
        """The number format, at this share of its density if it has one."""
        return (
            self._number.at(share) if share is not None and isinstance(self._number, Golomb) else self._number
        )

    def _encode_rows(
        self, number: Number, values: Tensor, lengths: Ints, known: Bools, generator: Generator
    ) -> tuple[list[Buffer], Tensor]:
        """Bytes of `values`, those of samples that are not `known` first if they are sent whole."""
        parts = self._first_and_rest(lengths, known, values.device)
        if parts is None:
            return self._encode_matrix(number, values, lengths, generator)
        first, rest = parts
        whole, arrived = _WHOLE.encode(first.of(values), None)
        data, restored = self._encode_matrix(number, rest.of(values), rest.lengths, generator)
        return [*whole, *data], _joined(parts, arrived, restored)

    def _decode_rows(
        self, body: Reader, lengths: Ints, known: Bools, hidden: int, device: torch.device | str
    ) -> Tensor:
        """Inverse of `_encode_rows`."""
        parts = self._first_and_rest(lengths, known, device)
        if parts is None:
            return self._decode_matrix(body, lengths, hidden, device)
        first, rest = parts
        arrived = _WHOLE.decode(body, int(first.lengths.sum()), hidden)
        return _joined(parts, arrived, self._decode_matrix(body, rest.lengths, hidden, device))

    def _first_and_rest(
        self, lengths: Ints, known: Bools, device: torch.device | str
    ) -> tuple[Rows, Rows] | None:
        """Of what is sent, the rows that are sent whole and the others; None if all are coded alike."""
        if known.all() or self._prediction is None or not self._prediction.first_is_whole:
            return None
        rows = np.repeat(known, lengths)
        return Rows(~rows, lengths, device), Rows(rows, lengths, device)

    def _encode_matrix(
        self, number: Number, values: Tensor, lengths: Ints, generator: Generator
    ) -> tuple[list[Buffer], Tensor]:
        """Bytes of `values` `[rows, hidden]`, and what `_decode_matrix` will make of them."""
        if not len(values):
            return [], values
        if self._transform is None:
            return number.encode(values, generator)
        side, parts = self._transform.forward(values, lengths, generator)
        coded = [number.encode(part, generator) for part in parts]
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

    def _rebuild(self, restored: Tensor, reference: Tensor | None, sent: Rows) -> Tensor:
        """The whole batch from what was sent and what was known; the same code on both sides."""
        if reference is None:
            return restored
        if self._prediction is not None:  # in place: `restored` is never the caller's memory here
            restored = self._prediction.restore(restored, sent.of(reference))
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
        if self._prediction is not None and self._prediction.first_is_whole:
            limit_bytes += _WHOLE.size(tokens, hidden)
        return self._entropy.decompress(data, limit_bytes)


def _joined(parts: tuple[Rows, Rows], first: Tensor, rest: Tensor) -> Tensor:
    """One matrix of the rows of both parts, in their places."""
    values = first.new_empty(len(first) + len(rest), first.shape[1])
    for rows, own in zip(parts, (first, rest), strict=True):
        if len(own):
            values = rows.over(values, own)
    return values


def _read(
    store: ReferenceStore | None,
    ids: list[int],
    lengths: Ints,
    known: Bools,
    hidden: int,
    device: torch.device | str,
    projection: Projection | None = None,
) -> Tensor | None:
    """The references of a batch or their projections, fp32 `[tokens, hidden or dim]`, zeros if there is none.

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
    rows = Rows(np.repeat(known, lengths), lengths, device)
    return held if known.all() else rows.over(held.new_zeros(int(lengths.sum()), width), held)


def _update(
    store: ReferenceStore,
    ids: list[int],
    batch: Ragged,
    sent: Rows,
    known: Bools,
    project: _Project | None = None,
) -> None:
    changed, lengths = sent.counts > 0, batch.lengths.numpy()
    values = Rows(np.repeat(changed, lengths), lengths, batch.values.device).of(batch.values)
    kept = None
    if project is not None:
        packed = Projection.pack(project(values, lengths[changed]))
        kept = [tensor_bytes(rows) for rows in torch.split(packed, lengths[changed].tolist())]
    store.update(ids, lengths, values, changed=changed, known=known, kept=kept)
