"""How a frame becomes the bytes of one gRPC message: its protobuf, then a chunk's data as they are.

    length of the protobuf, uint32 little-endian │ Frame │ data

The data are no protobuf field, since each pass through one copies them.
"""

import struct
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from splitcom.errors import RemoteProtocolError
from splitcom.transports.frames_pb2 import Frame

_LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 1 << 12  # of the protobuf


@dataclass(frozen=True, slots=True)
class Parcel:
    """A frame and, with a chunk, its data."""

    frame: Frame
    data: bytes | memoryview = b""


def pack(parcel: Parcel) -> bytes:
    """Copy frame and data into one message.

    >>> unpack(pack(Parcel(Frame(), b"abc"))).data.tobytes()
    b'abc'
    """
    frame = parcel.frame.SerializeToString()
    return b"".join((_LENGTH.pack(len(frame)), frame, parcel.data))


def unpack(message: bytes) -> Parcel:
    """Read a message without copying its data; raises RemoteProtocolError if it is malformed."""
    if len(message) < _LENGTH.size:
        raise RemoteProtocolError(f"{len(message)} bytes are no frame")
    (length,) = _LENGTH.unpack_from(message)
    end = _LENGTH.size + length
    if length > MAX_FRAME_BYTES or end > len(message):
        raise RemoteProtocolError(f"a frame of {length} bytes in a message of {len(message)}")
    try:
        frame = Frame.FromString(message[_LENGTH.size : end])
    except DecodeError as error:
        raise RemoteProtocolError(f"{length} bytes that are no frame: {error}") from error
    return Parcel(frame, memoryview(message)[end:])
