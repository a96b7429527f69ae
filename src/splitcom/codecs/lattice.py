"""A codec whose references are integers in a basis of few directions: predict > klt > uniform > range.

    batch ─► basis ─► coordinates ─► - prediction ─► steps ─► range coder ─► packet ─► the same backwards
              ▲                          ▲  │
              │       references ────────┘  └─► + prediction ─► references, reconstruction
              └── directions that are missing (side information)

What both ends learn of a flow (basis, step, drift map, statistics of the entropy coder) is a `FlowState` beside
the references. It changes with every packet, and the digest of a packet says which state it builds on; a packet
that is self-contained begins a new state and empties the references.

The step of the first packet is the unit of all that follows (eight units, that is). A packet whose codes have another
step says so with a byte, and it lasts until the next that does; coordinates and references keep their unit.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from splitcom.codecs.basis import UNIT, Basis, mean_of, shift_of, spread_of, weights_of
from splitcom.codecs.codec import Codec, Decoded, Encoded, Knob, check_batch, still_fit
from splitcom.codecs.coder import Coder, MatrixModel, Reader, Writer, code_uints
from splitcom.codecs.drift import Update, code_update, fit, predicted, updated
from splitcom.codecs.flow import MAX_UNITS, Flow
from splitcom.codecs.packet import read_prefix, write_prefix
from splitcom.codecs.packing import pack, unpack
from splitcom.codecs.predict import (
    Floats,
    Modes,
    Points,
    Predict,
    Window,
    plan,
    quantized,
    replay,
    restore,
)
from splitcom.codecs.ragged import Ragged
from splitcom.codecs.references import Reference, ReferenceStore
from splitcom.codecs.stage import Place, Stage, register
from splitcom.codecs.wire import Bools, Buffer, Ints
from splitcom.codecs.wire import Reader as ByteReader
from splitcom.errors import CodecError, PacketError
from splitcom.language import ArgumentError

_DIMENSION_BITS = 12
_MIN_STEP = 1e-30


@register
@dataclass(frozen=True)
class Klt(Stage):
    """The directions in which a flow varies most (Karhunen-Loève), each sent once, when first needed.

    Args:
        dims: most directions; what varies outside of them is lost. Without it, as many as are worth having.
        threshold: a direction is worth having where the values vary by more than this part of a step along it.
        centre: what a token is that has no coordinates: "mean", that of the first packet; or "sum", zero but for what
            makes the sum of the packet's tokens right. Of gradients sums are what counts: they are small sums of large
            terms, and what all tokens' errors have in common adds up where the rest cancels.
    """

    name = "klt"
    place = Place.TRANSFORM

    dims: int = (1 << _DIMENSION_BITS) - 1
    threshold: float = 0.5
    centre: Literal["mean", "sum"] = "mean"

    @override
    def __str__(self) -> str:
        # packets name their codec by its text, which stays as it was when dims had to be given
        return super().__str__().replace("dims=", "")

    def __post_init__(self) -> None:
        if not 1 <= self.dims < 1 << _DIMENSION_BITS:
            raise ArgumentError("dims", f"must be 1 to {(1 << _DIMENSION_BITS) - 1}, not {self.dims}")
        if not self.threshold > 0:
            raise ArgumentError("threshold", f"must be above 0, not {self.threshold:g}")


@register
@dataclass(frozen=True)
class Uniform(Stage):
    """One step for all directions.

    Args:
        step: in units of the root mean square of the values around their mean over the tokens (around zero, where klt
            keeps the sum): of the first packet; of each, where klt keeps the sum and nothing is predicted. A
            controller can set another for a packet, from 1/8 to 32 times this one in eighths of it.
        dead_zone: values up to this part of a step beyond half a step are taken for zero.
        prompt: tokens that nothing is learnt from or at (a prompt's) have a step this many times as large. Where this
            is more than 1, packets say which tokens these are, about a byte for each sample: so the receiver knows.
    """

    name = "uniform"
    place = Place.NUMBER

    step: float
    dead_zone: float = 0.0
    prompt: int = 1

    def __post_init__(self) -> None:
        if not 1e-3 <= self.step <= 1e3:
            raise ArgumentError("step", f"must be 0.001 to 1000, not {self.step:g}")
        if not -0.5 <= self.dead_zone <= 0.5:
            raise ArgumentError("dead_zone", f"must be -0.5 to 0.5, not {self.dead_zone:g}")
        if not 1 <= self.prompt <= 16:
            raise ArgumentError("prompt", f"must be 1 to 16, not {self.prompt}")


@register
@dataclass(frozen=True)
class Range(Stage):
    """Adaptive range coding of the steps of `uniform`, with statistics that last as long as the flow."""

    name = "range"
    place = Place.ENTROPY


@dataclass(frozen=True)
class _Head:
    """What a packet says of step and basis: the step where it changes, the mean and the directions to add."""

    step_bits: Ints
    mean: Ints
    rows: Ints


@dataclass(frozen=True)
class _Body:
    """What a packet says of the tokens."""

    update: Update | None
    modes: Modes
    codes: Ints


@dataclass(frozen=True)
class _Tokens:
    """What both ends know of a batch before its body."""

    lengths: Ints
    known: Bools
    factors: Ints
    """`[tokens, 1]`: how many times the step is to be taken for each token's."""
    reference: Ints
    """`[tokens, dims]`, zeros where there is none."""
    recent: Points
    """`[recent tokens, dims]`, the newest last."""

    def window(self, dims: int, holds_batch: bool) -> Window:
        """What pointers can name."""
        return Window(self.recent[:, :dims], len(self.reference) if holds_batch else 0)


@dataclass(frozen=True)
class LatticeCodec(Codec):
    """`klt > uniform > range`, with or without `predict`; see the module."""

    @property
    @override
    def needs_references(self) -> bool:
        return True

    @property
    @override
    def knob(self) -> Knob:
        step = self._uniform.step
        return Knob("step", step, (step / UNIT, step * MAX_UNITS / UNIT), saves_upwards=True)

    @cached_property
    def _predict(self) -> Predict | None:
        return next((stage for stage in self.stages if isinstance(stage, Predict)), None)

    @cached_property
    def _klt(self) -> Klt:
        return next(stage for stage in self.stages if isinstance(stage, Klt))

    @cached_property
    def _uniform(self) -> Uniform:
        return next(stage for stage in self.stages if isinstance(stage, Uniform))

    @property
    def _own_steps(self) -> bool:
        """Whether each packet has a step of its own: nothing that is kept has it for its unit."""
        return self._predict is None and self._klt.centre == "sum"

    @override
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
        units = UNIT if threshold is None else self._units(threshold)
        ids = [int(sample_id) for sample_id in ids]
        store, dims = self._given(references), min(self._klt.dims, batch.hidden)
        fresh = self_contained or store.flow is None
        check_batch(batch, ids, None if fresh else store.hidden, dims)
        values, lengths = batch.values.detach().float(), batch.lengths.numpy()
        found: list[Reference | None] = [None] * len(ids) if fresh else store.peek(ids)
        known = still_fit(found, lengths)
        flow = Flow.after(None if fresh else store.flow, dims, batch.hidden)
        chain = None if fresh else flow.state.chain
        changes_step = units != flow.units
        prefix = write_prefix(
            self.fingerprint, ids, lengths, known, found, batch.hidden, False, chain, changes_step
        )

        writer = Writer()
        if changes_step:
            flow.code_units(writer, units)
        learnt = torch.ones(len(values), dtype=torch.bool) if batch.learnt is None else batch.learnt
        factors = self._code_factors(writer, flow, learnt, lengths)
        tokens = self._tokens(store, ids, lengths, known, factors, dims, fresh)
        # gradients are as long as they count
        weights = weights_of(values) if self._klt.centre == "mean" else np.ones(len(values))
        self._code_head(writer, flow, self._head(values, flow, factors, fresh, weights), fresh, len(values))
        body = self._body(flow.basis.forward(values, flow.step), tokens, flow, weights)
        body, coordinates = self._code_body(writer, flow, body, tokens)
        restored = self._code_end(writer, flow, coordinates, values.device, values)
        packet = prefix + writer.finish()
        self._commit(store, flow, packet, ids, tokens, coordinates, fresh)
        reconstruction = Ragged(restored, batch.lengths, self._learnt(tokens))
        skipped = _skipped(body, tokens)
        return Encoded(packet, reconstruction, torch.from_numpy(skipped), int(lengths[skipped].sum()))

    @override
    def decode(
        self,
        packet: Buffer,
        references: ReferenceStore | None = None,
        *,
        device: torch.device | str = "cpu",
        limit_bytes: int = 1 << 32,
    ) -> Decoded:
        store = self._given(references)
        reader = ByteReader(packet)
        header = self._header(reader)
        fresh, dims = not header.known, min(self._klt.dims, header.hidden)
        chain = None if store.flow is None else store.flow.chain
        width = store.hidden if fresh else dims
        ids, lengths, known = read_prefix(reader, header, store, limit_bytes, chain=chain, width=width)
        flow = Flow.after(None if fresh else store.flow, dims, header.hidden)
        if len(flow.basis.mean) != header.hidden:
            raise PacketError(f"packet of width {header.hidden} in a flow of width {len(flow.basis.mean)}")

        bits = Reader(reader.rest())
        if header.changes_step:
            flow.code_units(bits, None)
        factors = self._code_factors(bits, flow, None, lengths)
        tokens = self._tokens(store, ids, lengths, known, factors, dims, fresh)
        self._code_head(bits, flow, None, fresh, int(lengths.sum()))
        body, coordinates = self._code_body(bits, flow, None, tokens)
        values = self._code_end(bits, flow, coordinates, device)
        bits.finish()
        if not bool(values.isfinite().all()):
            raise PacketError("the packet holds values that are not finite")
        self._commit(store, flow, packet, ids, tokens, coordinates, fresh)
        batch = Ragged(values, torch.from_numpy(lengths), self._learnt(tokens))
        return Decoded(batch, ids, torch.from_numpy(_skipped(body, tokens)))

    def _units(self, step: float) -> int:
        """The whole number of units that is nearest to a step in the units of `uniform`."""
        if not step > 0:
            raise CodecError(f'step {step:g} is given for "{self}"; it must be above 0')
        return round(min(max(step / self._uniform.step * UNIT, 1), MAX_UNITS))

    def _tokens(
        self,
        store: ReferenceStore,
        ids: list[int],
        lengths: Ints,
        known: Bools,
        factors: Ints,
        dims: int,
        fresh: bool,
    ) -> _Tokens:
        reference = np.zeros((int(lengths.sum()), dims), np.int64)
        if known.any():
            held = [sample_id for sample_id, is_known in zip(ids, known, strict=True) if is_known]
            reference[np.repeat(known, lengths)] = _read(store, held, dims)
        recent: list[int] = []
        left = 0 if fresh or self._predict is None else self._predict.window
        for sample_id, entry in zip(order := list(store)[::-1], store.peek(order), strict=True):
            left -= 0 if entry is None else entry.length
            if left < 0:
                break
            recent.insert(0, sample_id)
        window = _read(store, recent, dims).astype(np.float32)
        return _Tokens(lengths, known, factors, reference, window)

    def _code_factors(self, coder: Coder, flow: Flow, learnt: Tensor | None, lengths: Ints) -> Ints:
        """Code which tokens are a prompt's; gives how many times the step each is to have `[tokens, 1]`."""
        factors = np.ones((int(lengths.sum()), 1), np.int64)
        if self._uniform.prompt > 1:
            given = None if learnt is None else learnt.numpy()
            changes = None if given is None else _changes(given, lengths)
            changes = flow.prompts.code(coder, np.zeros(len(factors), np.int64), changes)
            factors[~_runs(changes, lengths)] = self._uniform.prompt
        return factors

    def _learnt(self, tokens: _Tokens) -> Tensor | None:
        """Which tokens are no prompt's, as far as the packet says."""
        return None if self._uniform.prompt == 1 else torch.from_numpy(tokens.factors[:, 0] == 1)

    def _room(self, basis: Basis, num_tokens: int, hidden: int) -> int:
        """How many directions a batch may add: at most one for each of its tokens."""
        return min(min(self._klt.dims, hidden) - len(basis.rows), num_tokens)

    def _head(self, values: Tensor, flow: Flow, factors: Ints, fresh: bool, weights: Floats) -> _Head:
        if fresh or self._own_steps:
            spread = spread_of(values, self._klt.centre == "mean", weights)
            step = max(self._uniform.step * spread, _MIN_STEP)
            flow.step_bits = np.array([np.float32(step)]).view(np.int32).astype(np.int64) >> 16
        basis = flow.basis
        if fresh and self._klt.centre == "mean":
            basis = Basis(mean_of(values, flow.step, weights), basis.rows)
        most = self._room(basis, *values.shape)
        rows = basis.rows[:0]
        if most:
            units = flow.units * factors
            rows = basis.missing(values, flow.step, most, self._klt.threshold, units, weights)
        return _Head(flow.step_bits, basis.mean, rows)

    def _code_head(self, coder: Coder, flow: Flow, head: _Head | None, fresh: bool, num_tokens: int) -> None:
        """Code step and basis, and put them into the flow."""
        if fresh or self._own_steps:
            flow.step_bits = code_uints(coder, None if head is None else head.step_bits, 1, 15)
        basis, hidden = flow.basis, len(flow.basis.mean)
        if fresh and self._klt.centre == "mean":
            mean = MatrixModel.new(1).code(coder, None if head is None else head.mean[:, None], hidden, 1)
            basis = Basis(mean[:, 0], basis.rows)
        most = self._room(basis, num_tokens, hidden)
        if most:
            number = None if head is None else np.array([len(head.rows)])
            num_rows = int(code_uints(coder, number, 1, _DIMENSION_BITS)[0])
            if num_rows > most:
                raise PacketError(f"{num_rows} new directions, where there is room for {most}")
            rows = None if head is None else head.rows.T
            rows = MatrixModel.new(num_rows).code(coder, rows, hidden, num_rows)
            basis = basis.extended(rows.T)
        flow.basis = basis

    def _body(self, coordinates: Floats, tokens: _Tokens, flow: Flow, weights: Floats) -> _Body:
        dims, units = coordinates.shape[1], flow.units * tokens.factors
        if self._predict is None:
            codes = quantized(coordinates, self._uniform.dead_zone, units)
            return _Body(None, Modes.all_usual(len(codes)), codes)
        own = tokens.reference[:, :dims]
        update = None
        if tokens.known.any():
            rows = np.repeat(tokens.known, tokens.lengths)
            drift, rank = flow.drift_of(dims), self._predict.rank
            update = fit(coordinates[rows], own[rows], drift, rank, units[rows], weights[rows])
            own, _ = _moved(own, rows, drift, update)
        window = tokens.window(dims, bool(self._predict.window))
        modes, codes = plan(
            coordinates, own, tokens.known, tokens.lengths, window, self._uniform.dead_zone, units
        )
        return _Body(update, modes, codes)

    def _code_body(self, coder: Coder, flow: Flow, body: _Body | None, tokens: _Tokens) -> tuple[_Body, Ints]:
        """Code the tokens; gives them, and their coordinates `[tokens, directions]`."""
        dims, num_tokens = len(flow.basis.rows), len(tokens.reference)
        own, update, modes = tokens.reference[:, :dims], None, Modes.all_usual(num_tokens)
        if self._predict is not None:
            if tokens.known.any():
                rows = np.repeat(tokens.known, tokens.lengths)
                update = code_update(coder, None if body is None else body.update, dims)
                own, matrix = _moved(own, rows, flow.drift_of(dims), update)
                if self._predict.rank:
                    flow.set_drift(matrix)
            width = int(len(tokens.recent) + num_tokens).bit_length()
            given = None if body is None else body.modes
            modes = flow.modes.code(coder, given, tokens.known, tokens.lengths, width)
        units = flow.units * tokens.factors
        kinds = (modes.usual & np.repeat(tokens.known, tokens.lengths)) + 2 * (tokens.factors[:, 0] > 1)
        codes = flow.codes.code(coder, None if body is None else body.codes, num_tokens, dims, kinds)
        if self._predict is None:
            coordinates = restore(np.zeros_like(codes), codes, units)
        else:
            window = tokens.window(dims, bool(self._predict.window))
            coordinates = replay(modes, codes, own, tokens.known, tokens.lengths, window, units)
        return _Body(update, modes, codes), coordinates

    def _code_end(
        self,
        coder: Coder,
        flow: Flow,
        coordinates: Ints,
        device: torch.device | str,
        values: Tensor | None = None,
    ) -> Tensor:
        """Code what corrects the tokens' sum, and a checksum; gives the tokens, fp32 `[tokens, hidden]`."""
        shift = None
        check = zlib.crc32(coordinates.astype("<i8").tobytes())
        if self._klt.centre == "sum":
            if values is not None:
                missed = values.double().cpu() - flow.basis.inverse(coordinates, flow.step, "cpu")
                shift = shift_of(missed.mean(0), flow.step * flow.units / UNIT, len(values))[None]
            shift = flow.shift.code(coder, shift, 1, len(flow.basis.mean))[0]
            check = zlib.crc32(shift.astype("<i8").tobytes(), check)
        # the two ends must not drift apart unseen, and truncated bits read as others
        check &= 0xFFFF
        if code_uints(coder, np.array([check]), 1, 16) != check:
            raise PacketError("the packet is damaged: its checksum does not fit")
        return flow.basis.inverse(coordinates, flow.step, device, shift, flow.units)

    def _commit(
        self,
        store: ReferenceStore,
        flow: Flow,
        packet: Buffer,
        ids: list[int],
        tokens: _Tokens,
        coordinates: Ints,
        fresh: bool,
    ) -> None:
        if fresh:
            store.clear()
        flow.state.chain = zlib.crc32(packet, flow.state.chain)
        store.flow = flow.state
        if self._predict is None:
            return
        padded = np.zeros_like(tokens.reference)
        padded[:, : coordinates.shape[1]] = coordinates
        changed = ~tokens.known | np.logical_or.reduceat(
            (padded != tokens.reference).any(1), _starts(tokens.lengths)
        )
        rows = padded[np.repeat(changed, tokens.lengths)]
        store.update(
            ids,
            tokens.lengths,
            torch.from_numpy(rows).float(),
            changed=changed,
            known=tokens.known,
            kept=[pack(sample) for sample in np.split(rows, np.cumsum(tokens.lengths[changed])[:-1])],
        )


def _moved(own: Ints, rows: Bools, matrix: Ints, update: Update) -> tuple[Ints, Ints]:
    """What the known samples' references predict, and the updated map."""
    matrix = updated(matrix, update, own[rows])
    result = np.zeros_like(own)
    result[rows] = predicted(own[rows], matrix, update)
    return result, matrix


def _read(store: ReferenceStore, ids: list[int], dims: int) -> Ints:
    """The references of samples, `[tokens, dims]`."""
    if not ids:
        return np.zeros((0, dims), np.int64)
    if not store.reduced or store.hidden != dims:
        raise CodecError(f"the store keeps no {dims} packed coordinates of a token: it is of another codec")
    lengths = [0 if entry is None else entry.length for entry in store.peek(ids)]
    items = zip(store.read_kept(ids), lengths, strict=True)
    return np.concatenate([unpack(item, length, dims) for item, length in items])


def _skipped(body: _Body, tokens: _Tokens) -> Bools:
    """Samples `[batch]` that are their reference, moved by the map, and nothing else."""
    sent = (body.codes != 0).any(1) | ~body.modes.usual
    return tokens.known & ~np.logical_or.reduceat(sent, _starts(tokens.lengths))


def _starts(lengths: Ints) -> Ints:
    starts: Ints = np.cumsum(lengths) - lengths
    return starts


def _changes(learnt: Bools, lengths: Ints) -> Bools:
    """Where a token differs from the one before it in its sample, the first from a prompt's: that is rare."""
    before = np.roll(learnt, 1)
    before[_starts(lengths)] = False
    return learnt ^ before


def _runs(changes: Bools, lengths: Ints) -> Bools:
    """Inverse of `_changes`."""
    odd = np.logical_xor.accumulate(changes)
    starts = _starts(lengths)
    return odd ^ np.repeat(odd[starts] ^ changes[starts], lengths)
