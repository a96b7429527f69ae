"""What stands before the body of a packet: whose tokens it holds and which references it builds on.

A known sample is one that is coded with use of a reference; its length is that of the reference. One digest
over id, version and checksum of all references in use takes four bytes, where each by itself would take some.
"""

import zlib
from collections.abc import Sequence

import numpy as np

from splitcom.codecs.references import Reference, ReferenceStore
from splitcom.codecs.wire import (
    Bools,
    Header,
    Ints,
    Reader,
    num_bool_bytes,
    pack_bools,
    pack_uints,
    uint_width,
    unpack_bools,
    unpack_uints,
)
from splitcom.errors import PacketError, UnknownReference

_DIGEST_BYTES = 4


def write_prefix(
    fingerprint: int,
    ids: list[int],
    lengths: Ints,
    known: Bools,
    found: Sequence[Reference | None],
    hidden: int,
    stored: bool,
    chain: int | None = None,
    changes_step: bool = False,
) -> bytes:
    """Everything before the body: see `wire`. `chain` is that of the flow state which the packet builds on."""
    uses_references = bool(known.any()) or chain is not None
    new_lengths = lengths[~known]
    header = Header(
        fingerprint=fingerprint,
        batch=len(ids),
        hidden=hidden,
        id_width=uint_width(ids),
        length_width=uint_width(new_lengths),
        known=uses_references,
        stored=stored,
        changes_step=changes_step,
    )
    parts = [header.pack(), pack_uints(ids, header.id_width)]
    if uses_references:
        parts += [pack_bools(known), _digest(ids, found, known, chain)]
    return b"".join([*parts, pack_uints(new_lengths, header.length_width)])


def _digest(ids: Sequence[int], found: Sequence[Reference | None], known: Bools, chain: int | None) -> bytes:
    """Four bytes over id, version and checksum of the references in use, in the order of the batch."""
    used = [
        (sample_id, old.version, old.checksum)
        for sample_id, old, is_known in zip(ids, found, known, strict=True)
        if old is not None and is_known
    ]
    return zlib.crc32(np.array(used, "<i8").tobytes(), chain or 0).to_bytes(_DIGEST_BYTES, "little")


def read_prefix(
    reader: Reader,
    header: Header,
    store: ReferenceStore | None,
    limit_bytes: int,
    *,
    chain: int | None = None,
    width: int | None = None,
) -> tuple[list[int], Ints, Bools]:
    """Ids, lengths and which references are used; every length is bounded and every reference checked.

    Args:
        reader: behind the header.
        header: what it has read.
        store: this side's references.
        limit_bytes: largest batch (as fp32) that is believed.
        chain: that of this side's flow state.
        width: of the references, where it is not that of the values.
    """
    batch = header.batch
    id_array = unpack_uints(reader.take(batch * header.id_width, "sample ids"), header.id_width)
    ids: list[int] = id_array.tolist()
    if len(set(ids)) != batch or min(ids) < 0:
        raise PacketError("sample ids of the packet are not distinct numbers below 2**63")
    known, digest = np.zeros(batch, np.bool_), b""
    if header.known:
        known = unpack_bools(reader.take(num_bool_bytes(batch), "bitmap of references"), batch)
        digest = bytes(reader.take(_DIGEST_BYTES, "digest of references"))
    if store is None and header.known:
        raise PacketError("the packet builds on references, but its codec has none")
    lengths = np.zeros(batch, np.int64)
    num_new = batch - int(known.sum())
    lengths[~known] = unpack_uints(reader.take(num_new * header.length_width, "lengths"), header.length_width)

    if store is not None and header.known:
        found = store.peek(ids)
        missing = [i for i, old, is_known in zip(ids, found, known, strict=True) if is_known and old is None]
        if missing:
            raise UnknownReference(missing)
        if _digest(ids, found, known, chain) != digest:
            raise UnknownReference(id_array[known].tolist() or ids)
        lengths[known] = [old.length for old, is_known in zip(found, known, strict=True) if old and is_known]
    if store is not None and store.hidden not in (None, width or header.hidden):
        raise PacketError(
            f"packet of width {header.hidden}, but the store holds references of {store.hidden}"
        )
    _check_lengths(lengths, header.hidden, limit_bytes)
    return ids, lengths, known


def _check_lengths(lengths: Ints, hidden: int, limit_bytes: int) -> None:
    limit = limit_bytes // (4 * hidden)
    if lengths.min() < 1 or lengths.max() > limit or lengths.sum() > limit:
        raise PacketError(
            f"packet claims samples of {lengths.min()} to {lengths.max()} tokens; at least 1 and together "
            f"at most {limit} of width {hidden} ({limit_bytes} bytes) are believed"
        )
