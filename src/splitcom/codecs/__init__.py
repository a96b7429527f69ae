"""How a ragged batch becomes few bytes and back, given what the receiver has already.

Read `codec` first, what every codec does, then `spec` for its text; `chain` and `lattice` are the two kinds there are.
"""

from splitcom.codecs.along import Along
from splitcom.codecs.codec import Codec, Context, Decoded, Encoded, Knob, uncompressed_size
from splitcom.codecs.element import ELEMENTS, register
from splitcom.codecs.guess import Guess
from splitcom.codecs.precision import Precision
from splitcom.codecs.ragged import Ragged
from splitcom.codecs.references import (
    FileReferences,
    MemoryReferences,
    OverlayReferences,
    Reference,
    ReferenceStore,
)
from splitcom.codecs.spec import parse
from splitcom.codecs.wire import WIRE_VERSION

__all__ = [
    "ELEMENTS",
    "WIRE_VERSION",
    "Along",
    "Codec",
    "Context",
    "Decoded",
    "Encoded",
    "FileReferences",
    "Guess",
    "Knob",
    "MemoryReferences",
    "OverlayReferences",
    "Precision",
    "Ragged",
    "Reference",
    "ReferenceStore",
    "parse",
    "register",
    "uncompressed_size",
]
