"""What the receiver of a flow holds of each sample, and the sender identically: references.

Read `store` first: counting, eviction, versions. `memory` and `file` keep bytes, `overlay` what differs from another
store, `saved` is the file of a checkpoint.
"""

from splitcom.codecs.references.file import FileReferences
from splitcom.codecs.references.memory import MemoryReferences
from splitcom.codecs.references.overlay import OverlayReferences
from splitcom.codecs.references.reference import Reference
from splitcom.codecs.references.state import FlowState
from splitcom.codecs.references.store import ReferenceStore

__all__ = [
    "FileReferences",
    "FlowState",
    "MemoryReferences",
    "OverlayReferences",
    "Reference",
    "ReferenceStore",
]
