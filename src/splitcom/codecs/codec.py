"""What a channel needs of any codec, and the checks that all share. Knows neither chain nor lattice.

    sender    batch, ids, Context ─► encode ─► Encoded: packet, reconstruction
    receiver  packet, references  ─► decode ─► Decoded: the reconstruction again, bit for bit

Closed loop: both sides put the same reconstruction, rounded to the store's precision, into a store each, so errors do
not add up from one packet to the next.
"""

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from splitcom.codecs.along import Along
from splitcom.codecs.element import Element
from splitcom.codecs.guess import Guess
from splitcom.codecs.precision import MAX_MAGNITUDE
from splitcom.codecs.ragged import Ragged
from splitcom.codecs.references import FlowState, Reference, ReferenceStore
from splitcom.codecs.wire import HEADER_BYTES, Bools, Buffer, Header, Ints, Reader, uint_width
from splitcom.errors import CodecError, NonFiniteError, PacketError

_MAX_BATCH = _MAX_HIDDEN = 0xFFFF


@dataclass(frozen=True, slots=True)
class Context:
    """What a sender's codec is to know beside the batch."""

    references: ReferenceStore | None = None
    """This side's store; None if the codec needs none."""
    threshold: float | None = None
    """Of the gate, in place of the one in the codec's text."""
    step: float | None = None
    """Of the quantiser, in the units of the one in the codec's text, and in place of it."""
    share: float | None = None
    """How far from its least to its own density a codec that has one goes, 0 to 1; None: all the way."""
    self_contained: bool = False
    """Use no reference: the answer to "unknown reference"."""
    seed: int = 0
    """Of what is random in this packet; the receiver needs none."""
    flow_seed: int = 0
    """Of what is random but the same for all batches that share `references`."""
    along: Along | None = None
    """Of a codec that `wants_along`: what the receiver has of the batch's tokens too."""
    guess: Guess | None = None
    """Of a codec that `wants_guess`: what the receiver can tell of new samples before the packet."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """What the sender gets."""

    packet: bytes
    reconstruct: Callable[[], Ragged]
    """Computes `reconstruction`: few senders ask for it."""
    skipped: Tensor
    """bool `[batch]`: samples of which nothing was sent."""
    num_skipped_tokens: int
    guessed: bool = False
    """Whether the receiver needs the guess to read the packet."""

    @cached_property
    def reconstruction(self) -> Ragged:
        """fp32, what the receiver will have; may share memory with the batch.

        NaN where the sender cannot know it: in skipped samples of which it keeps a projection only.
        """
        return self.reconstruct()


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
    """Of a gate, or of a quantiser: the field of `Context` that sets it."""
    value: float
    """What the codec's text says."""
    limits: tuple[float, float]
    """The lowest and the highest value that make sense."""
    saves_upwards: bool
    """Whether less is sent the higher it is."""


class Codec(ABC):
    """Turns a ragged batch into a packet and back. Holds no state; make one with `splitcom.codecs.parse`."""

    @property
    @abstractmethod
    def elements(self) -> tuple[Element, ...]:
        """What the text names, in its order."""

    @property
    @abstractmethod
    def needs_references(self) -> bool:
        """Whether `encode` and `decode` must be given a reference store."""

    @property
    @abstractmethod
    def knob(self) -> Knob | None:
        """What `Context` can set; None if the codec has nothing of the kind."""

    @property
    def exact_step(self) -> float | None:
        """The step in which losses of what arrives are as good as exact; None if the codec has none."""
        return None

    def begun(self, other: "Codec", state: FlowState) -> FlowState | None:
        """What a flow can begin with where both ends hold the `state` of another one of the same hidden states, of
        the codec `other`; None if it begins with nothing."""
        return None

    @property
    def knows_the_receiver(self) -> bool:
        """Whether the sender has all that the receiver has, and so no NaN in its reconstructions."""
        return True

    @property
    def wants_along(self) -> int:
        """How many columns of what both ends have of a batch's tokens already a packet is to be right along."""
        return 0

    @property
    def wants_guess(self) -> bool:
        """Whether what both ends can tell of new samples makes packets smaller."""
        return False

    @abstractmethod
    def encode(self, batch: Ragged, ids: Sequence[int], context: Context = Context()) -> Encoded:
        """Make a packet of `batch`, and put what the receiver will have into the context's references.

        Args:
            batch: float tensor of any precision and device; coded as fp32.
            ids: sample ids `[batch]`, at least 0, none twice.
            context: what else there is to know.

        Raises:
            NonFiniteError: a value is NaN, infinite or above 1e34.
            CodecError: arguments that do not fit each other, or the codec.
            In both cases the store is as it was.
        """

    def decode(
        self,
        packet: Buffer,
        references: ReferenceStore | None = None,
        *,
        limit_bytes: int = 1 << 32,
        device: torch.device | str = "cpu",
        along: Along | None = None,
        guess: Guess | None = None,
    ) -> Decoded:
        """Read a packet of the same codec, and put the batch into `references` as the sender did.

        Args:
            packet: what `encode` gave.
            references: this side's store; None if the codec needs none.
            limit_bytes: largest batch (as fp32) that is believed.
            device: where the batch is wanted.
            along, guess: as the sender's context has them.

        Raises:
            PacketError: these are no bytes that `encode` of this codec gives.
            UnknownReference: the store lacks a reference, or holds another one than the sender. In the second
                case all that the packet builds on are named: it carries one digest for all. Or the guess is another
                one than the sender's; then all samples are named.
            In both cases the store is as it was.
        """
        return self._decode(packet, references, limit_bytes, device, along, guess)

    @abstractmethod
    def _decode(
        self,
        packet: Buffer,
        references: ReferenceStore | None,
        limit_bytes: int,
        device: torch.device | str,
        along: Along | None,
        guess: Guess | None,
    ) -> Decoded:
        """Do what `decode` promises."""

    def __str__(self) -> str:
        """The canonical text."""
        return " > ".join(map(str, self.elements))

    @cached_property
    def fingerprint(self) -> int:
        """16 bits of a hash of the canonical text; part of every packet."""
        return zlib.crc32(str(self).encode()) & 0xFFFF

    def header_of(self, reader: Reader) -> Header:
        """Read a packet's header; PacketError if it is of another codec."""
        header = Header.unpack(reader)
        if header.fingerprint != self.fingerprint:
            raise PacketError(f'packet of another codec than "{self}"')
        return header

    def store_of(self, references: ReferenceStore | None) -> ReferenceStore:
        """The store that this codec needs; CodecError if none was given."""
        if references is None:
            raise CodecError(f'"{self}" needs a reference store, none was given')
        return references


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


def within(values: Tensor, lengths: Ints, limit: float) -> Bools:
    """Which samples `[batch]` have no value of a larger magnitude, of fp32 `[tokens, hidden]`."""
    beyond = (values.abs().amax(1) > limit).cpu().numpy()
    counts: Ints = np.add.reduceat(beyond, np.cumsum(lengths) - lengths, dtype=np.int64)
    fits: Bools = counts == 0
    return fits


def check_batch(
    batch: Ragged, ids: list[int], held_width: int | None, width: int, bound: float = math.inf
) -> None:
    """Raise CodecError or NonFiniteError for what cannot be coded, or needs other references than are held.

    `bound` is one of the magnitudes, if it is known; NaN if they may be.
    """
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
    if bound <= MAX_MAGNITUDE:
        return
    # as Python's numbers: to fp16 the bound itself is infinite
    low, high = (end.item() for end in torch.aminmax(batch.values.detach()))
    if not (low >= -MAX_MAGNITUDE and high <= MAX_MAGNITUDE):  # NaN fails both
        wrong = ~(batch.values.detach().double().abs() <= MAX_MAGNITUDE).all(1).cpu()
        samples = np.array(ids)[
            np.unique(np.repeat(np.arange(len(ids)), batch.lengths.numpy())[wrong.numpy()])
        ]
        raise NonFiniteError(
            f"NaN, infinity or a magnitude above {MAX_MAGNITUDE:g} in sample ids {samples.tolist()}"
        )
