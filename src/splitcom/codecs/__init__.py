"""How a ragged batch becomes few bytes and back, given what the receiver has already.

Read `codec` first, then `spec` for the language and one of the stages.
"""

from splitcom.codecs import (  # noqa: F401  (they register)
    entropy,
    lattice,
    number,
    projection,
    quantize,
    sparsify,
    temporal,
    transform,
)
from splitcom.codecs.codec import Codec, Decoded, Encoded, Knob, uncompressed_size
from splitcom.codecs.ragged import Ragged
from splitcom.codecs.references import FileReferences, MemoryReferences, Precision, Reference, ReferenceStore
from splitcom.codecs.spec import parse
from splitcom.codecs.stage import STAGES, register
from splitcom.codecs.wire import WIRE_VERSION

__all__ = [
    "STAGES",
    "WIRE_VERSION",
    "Codec",
    "Decoded",
    "Encoded",
    "FileReferences",
    "Knob",
    "MemoryReferences",
    "Precision",
    "Ragged",
    "Reference",
    "ReferenceStore",
    "parse",
    "register",
    "uncompressed_size",
]
