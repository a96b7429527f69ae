"""How a shared adapter's packets stand in one field of a message; knows no codec.

    count  sizes of all packets but the last  packets
    1 B    4 B each, little-endian            each makes the next version of the one before

A count of 0 is one packet that needs no version before it and is exact.
"""

import struct
from collections.abc import Sequence

from splitcom.errors import RemoteProtocolError

MAX_PACKETS = 255


def pack_packets(packets: Sequence[bytes], *, is_exact: bool = False) -> bytes:
    """Put packets, in their order, or the one that is exact, into one field.

    >>> pack_packets([b"ab", b"c"]).hex(" "), pack_packets([b"abc"], is_exact=True)
    ('02 02 00 00 00 61 62 63', b'\\x00abc')
    """
    count = 0 if is_exact else len(packets)
    sizes = struct.pack(f"<{len(packets) - 1}I", *(len(packet) for packet in packets[:-1]))
    return bytes([count]) + sizes + b"".join(packets)


def unpack_packets(data: bytes) -> tuple[list[bytes], bool]:
    """The packets, and whether it is one that is exact; raises RemoteProtocolError if it is malformed."""
    if not data:
        raise RemoteProtocolError("no bytes, where the packets of an adapter are due")
    count = max(data[0], 1)
    start = 1 + 4 * (count - 1)
    if len(data) < start:
        raise RemoteProtocolError(f"{len(data)} bytes, where the sizes of {count} packets are due")
    packets = []
    for size in struct.unpack(f"<{count - 1}I", data[1:start]):
        packets.append(data[start : start + size])
        start += size
    if start > len(data):
        raise RemoteProtocolError(f"{count} packets of an adapter that take more than the {len(data)} bytes")
    return [*packets, data[start:]], data[0] == 0
