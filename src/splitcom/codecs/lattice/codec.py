"""A codec whose references are integers in a basis of few directions: predict > klt > uniform > range. Knows no chain.

    batch ─► basis ─► coordinates ─► - prediction ─► steps ─► range coder ─► packet ─► the same backwards
              ▲                          ▲  │
              │       references ────────┘  └─► + prediction ─► references, reconstruction
              └── directions that are missing (side information)

    packet    prefix │ step, where it changes │ prompts │ head: step, mean, directions │ guesses, if there can be some
              │ body: map, modes, codes │ check

What both ends learn of a flow (basis, step, drift map, statistics of the entropy coder) is a `FlowState` beside
the references. It changes with every packet, and the digest of a packet says which state it builds on; a packet
that is self-contained begins a new state and empties the references.

The step of the first packet is the unit of all that follows (eight units, that is). A packet whose codes have another
step says so with a byte, and it lasts until the next that does; coordinates and references keep their unit.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from splitcom.codecs.along import Along
from splitcom.codecs.codec import Codec, Context, Decoded, Encoded, Knob, check_batch, still_fit
from splitcom.codecs.guess import Guess
from splitcom.codecs.lattice.basis import UNIT, computable, lengths_of, weights_of
from splitcom.codecs.lattice.body import BodyCoding
from splitcom.codecs.lattice.coder import Coder, code_uints
from splitcom.codecs.lattice.flow import MAX_UNITS, Flow
from splitcom.codecs.lattice.guessed import code_guessed, guessed_of
from splitcom.codecs.lattice.head import HeadCoding
from splitcom.codecs.lattice.parameters import Klt, Parameter, Predict, Range, Uniform
from splitcom.codecs.lattice.streams import reader as reader_of
from splitcom.codecs.lattice.streams import writer as writer_of
from splitcom.codecs.lattice.sums import Sums, code_sums, is_bounded, restored
from splitcom.codecs.lattice.tokens import Tokens, code_factors
from splitcom.codecs.packet import read_prefix, write_prefix
from splitcom.codecs.ragged import Ragged
from splitcom.codecs.references import FlowState, Reference, ReferenceStore
from splitcom.codecs.wire import Buffer, Points
from splitcom.codecs.wire import Reader as ByteReader
from splitcom.errors import CodecError, PacketError, UnknownReference

_EXACT_STEP = 1 / 16  # losses of some hundred tokens differ by 0.02 to 0.10 % (docs/codecs.md)


@dataclass(frozen=True)
class LatticeCodec(Codec):
    """`klt > uniform > range`, with or without `predict`; see the module."""

    predict: Predict | None
    klt: Klt
    uniform: Uniform
    range: Range

    @property
    @override
    def elements(self) -> tuple[Parameter, ...]:
        others = (self.klt, self.uniform, self.range)
        return others if self.predict is None else (self.predict, *others)

    @property
    @override
    def needs_references(self) -> bool:
        return True

    @property
    @override
    def knob(self) -> Knob:
        step = self.uniform.step
        return Knob("step", step, (step / UNIT, step * MAX_UNITS / UNIT), saves_upwards=True)

    @override
    def encode(self, batch: Ragged, ids: Sequence[int], context: Context = Context()) -> Encoded:
        units = self._units(context)
        ids = [int(sample_id) for sample_id in ids]
        store, dims = self.store_of(context.references), min(self.klt.dims, batch.hidden)
        fresh = context.self_contained or store.flow is None
        norms = lengths_of(batch.values.detach())
        check_batch(batch, ids, None if fresh else store.hidden, dims, float(norms.max()))
        lengths = batch.lengths.numpy()
        found: list[Reference | None] = [None] * len(ids) if fresh else store.peek(ids)
        known = still_fit(found, lengths)
        flow = Flow.after(None if fresh else store.flow, dims, batch.hidden)
        values = computable(batch.values.detach(), norms, None if fresh else flow.step)
        chain = None if fresh else flow.state.chain
        changes_step = units != flow.units
        prefix = write_prefix(
            self.fingerprint, ids, lengths, known, found, batch.hidden, False, chain, changes_step
        )

        writer = writer_of(values.numel())
        if changes_step:
            flow.code_units(writer, units)
        learnt = torch.ones(len(values), dtype=torch.bool) if batch.learnt is None else batch.learnt
        factors = code_factors(writer, flow.prompts, self.uniform.prompt, learnt, lengths)
        # gradients are as long as they count
        weights = weights_of(norms) if self.klt.centre == "mean" else np.ones(len(values))
        heads, bodies = self._heads(fresh), self._bodies
        head, wanted = heads.plan(
            values, flow, factors, weights, bool(known.all()) and self.klt.centre == "mean"
        )
        heads.code(writer, flow, head, len(values))
        tokens = Tokens.of(store, ids, lengths, known, factors, len(flow.basis.rows), self._window(fresh))
        guess = None if context.self_contained else context.guess
        tokens = self._with_guess(writer, flow, tokens, ids, guess, sends=True)
        body = bodies.plan(wanted, tokens, flow, weights)
        body, coordinates = bodies.code(writer, flow, body, tokens)
        columns = None if context.along is None else context.along.of(ids, lengths)
        sums = self._code_end(writer, flow, coordinates, columns, values)
        packet = prefix + writer.finish()
        self._commit(store, flow, packet, ids, tokens, coordinates, fresh, dims)
        skipped = body.skipped(tokens)

        def reconstruct() -> Ragged:
            values_of = restored(flow, coordinates, sums, values.device)
            return Ragged(values_of, batch.lengths, self._learnt(tokens))

        num_skipped, is_guessed = int(lengths[skipped].sum()), bool(tokens.guessed.any())
        return Encoded(packet, reconstruct, torch.from_numpy(skipped), num_skipped, is_guessed)

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
        store = self.store_of(references)
        reader = ByteReader(packet)
        header = self.header_of(reader)
        fresh, dims = not header.known, min(self.klt.dims, header.hidden)
        chain = None if store.flow is None else store.flow.chain
        width = store.hidden if fresh else dims
        ids, lengths, known = read_prefix(reader, header, store, limit_bytes, chain=chain, width=width)
        flow = Flow.after(None if fresh else store.flow, dims, header.hidden)
        if len(flow.basis.mean) != header.hidden:
            raise PacketError(f"packet of width {header.hidden} in a flow of width {len(flow.basis.mean)}")

        bits = reader_of(reader.rest(), int(lengths.sum()) * header.hidden)
        if header.changes_step:
            flow.code_units(bits, None)
        factors = code_factors(bits, flow.prompts, self.uniform.prompt, None, lengths)
        self._heads(fresh).code(bits, flow, None, int(lengths.sum()))
        tokens = Tokens.of(store, ids, lengths, known, factors, len(flow.basis.rows), self._window(fresh))
        tokens = self._with_guess(bits, flow, tokens, ids, guess, sends=False)
        body, coordinates = self._bodies.code(bits, flow, None, tokens)
        columns = None if along is None else along.of(ids, lengths)
        try:
            sums = self._code_end(bits, flow, coordinates, columns)
        except PacketError:
            if tokens.guessed.any():  # the sender's was another one, perhaps
                raise UnknownReference(ids) from None
            raise
        values = restored(flow, coordinates, sums, device)
        bits.finish()
        if not is_bounded(flow, coordinates, sums) and not all(
            end.isfinite() for end in torch.aminmax(values)
        ):
            raise PacketError("the packet holds values that are not finite")
        self._commit(store, flow, packet, ids, tokens, coordinates, fresh, dims)
        batch = Ragged(values, torch.from_numpy(lengths), self._learnt(tokens))
        return Decoded(batch, ids, torch.from_numpy(body.skipped(tokens)))

    @property
    @override
    def exact_step(self) -> float | None:
        if self.klt.dims != Klt.dims or self.knob.limits[0] > _EXACT_STEP:
            return None
        return min(self.uniform.step, _EXACT_STEP)

    @override
    def begun(self, other: Codec, state: FlowState) -> FlowState | None:
        if not isinstance(other, LatticeCodec) or {self.klt.centre, other.klt.centre} != {"mean"}:
            return None
        hidden = len(Flow(state).basis.mean)
        if min(other.klt.dims, hidden) > (dims := min(self.klt.dims, hidden)):
            return None
        return Flow.like(state, self.uniform.step / other.uniform.step, dims).state

    def _units(self, context: Context) -> int:
        """The whole number of units that is nearest to the step that is given."""
        step = context.step
        if context.threshold is not None:
            raise CodecError(f'threshold {context.threshold:g} is given, but "{self}" has no temporal stage')
        if step is None:
            return UNIT
        if not step > 0:
            raise CodecError(f'step {step:g} is given for "{self}"; it must be above 0')
        return round(min(max(step / self.uniform.step * UNIT, 1), MAX_UNITS))

    def _heads(self, fresh: bool) -> HeadCoding:
        # where nothing is kept that has the first step for its unit, each packet has one of its own
        own_steps = self.predict is None and self.klt.centre == "sum"
        return HeadCoding(self.klt, self.uniform.step, fresh, fresh or own_steps)

    @property
    def _bodies(self) -> BodyCoding:
        return BodyCoding(self.predict, self.uniform.dead_zone, self.uniform.first * self.uniform.dead_zone)

    def _window(self, fresh: bool) -> int:
        return 0 if fresh or self.predict is None else self.predict.window

    def _learnt(self, tokens: Tokens) -> Tensor | None:
        return None if self.uniform.prompt == 1 else tokens.learnt

    @property
    @override
    def wants_along(self) -> int:
        return self.klt.along

    @property
    @override
    def wants_guess(self) -> bool:
        return self.predict is not None and self.predict.guess != "none"

    def _with_guess(
        self, coder: Coder, flow: Flow, tokens: Tokens, ids: list[int], guess: Guess | None, *, sends: bool
    ) -> Tokens:
        """Code whether and how new samples are guessed; gives the tokens with what they are guessed to be."""
        if not self.wants_guess or tokens.known.all():
            return tokens
        find = partial(guessed_of, guess, ids, tokens.lengths, ~tokens.known)
        found = find() if sends else None
        if not code_uints(coder, np.array([found is not None]) if sends else None, 1, 1)[0]:
            return tokens
        if (found := found if sends else find()) is None:
            raise UnknownReference(ids)
        guessed, values = found
        if values.shape[1] != len(flow.basis.mean):
            raise PacketError(f"packet of width {len(flow.basis.mean)} of tokens of width {values.shape[1]}")
        kept, coordinates = code_guessed(coder, flow.guesses, flow.basis, flow.step, values, sends=sends)
        guessed[guessed] = kept
        return tokens.with_guess(guessed, coordinates)

    def _code_end(
        self,
        coder: Coder,
        flow: Flow,
        coordinates: Points,
        columns: Tensor | None,
        values: Tensor | None = None,
    ) -> Sums | None:
        """Code what corrects sums over the tokens, and a checksum; gives the corrections, if there are any."""
        sums = None
        check = zlib.crc32(coordinates.astype("<i4").tobytes())
        if self.klt.centre == "sum":
            sums = code_sums(coder, flow, coordinates, self.klt.along, columns, values)
            check = zlib.crc32(sums.shift.astype("<i4").tobytes() + sums.along.astype("<i4").tobytes(), check)
        # the two ends must not drift apart unseen, and truncated bits read as others
        check &= 0xFFFF
        if code_uints(coder, np.array([check]), 1, 16) != check:
            raise PacketError("the packet is damaged: its checksum does not fit")
        return sums

    def _commit(
        self,
        store: ReferenceStore,
        flow: Flow,
        packet: Buffer,
        ids: list[int],
        tokens: Tokens,
        coordinates: Points,
        fresh: bool,
        dims: int,
    ) -> None:
        if fresh:
            store.clear()
        flow.state.chain = zlib.crc32(packet, flow.state.chain)
        store.flow = flow.state
        if self.predict is not None:
            tokens.keep(store, ids, coordinates, dims)
