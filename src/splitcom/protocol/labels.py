"""How the labels of a batch become bytes: where the first one stands, then the token ids that are learnt.

Labels never change, so a client sends each sample's once and the server keeps them. Layout, little-endian:

  u8 bytes per token id (2 or 4; + 128: with gaps) │ u32 samples │ samples × (u32 id, u32 start, u32 length)
  │ with gaps: a bit for each token from start to length, ragged │ token ids, ragged

`start` is the number of prompt tokens, whose label is IGNORED. Behind it there may be others without a label, such as
what a user says in a conversation's later turns: what is not learnt is not sent. A sample that has a class has that one
label.
"""

import struct
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from splitcom.data import IGNORED
from splitcom.errors import RemoteProtocolError

_GAPS = 128
Labels = NDArray[np.int64]


def pack_labels(labels: Mapping[int, Labels]) -> bytes:
    """Serialise labels by sample id; each is int64 [tokens], IGNORED where nothing is learnt, which is not all."""
    if not labels:
        return b""
    starts = [int((row != IGNORED).argmax()) for row in labels.values()]
    tokens = np.concatenate([row[start:] for row, start in zip(labels.values(), starts, strict=True)])
    learnt = tokens != IGNORED
    has_gaps = not learnt.all()
    width = 2 if tokens.max(initial=0) < 1 << 16 else 4
    table = np.array(
        [(sample, start, len(row)) for (sample, row), start in zip(labels.items(), starts, strict=True)],
        dtype="<u4",
    )
    return b"".join(
        (
            struct.pack("<BI", width + _GAPS * has_gaps, len(labels)),
            table.tobytes(),
            np.packbits(learnt).tobytes() if has_gaps else b"",
            tokens[learnt].astype(f"<u{width}").tobytes(),
        )
    )


def most_label_bytes(num_samples: int, max_tokens: int) -> int:
    """What the labels of so many samples take at most."""
    return struct.calcsize("<BI") + num_samples * (12 + 4 * max_tokens + max_tokens // 8 + 1)


def unpack_labels(data: bytes, max_tokens: int, max_samples: int | None = None) -> dict[int, Labels]:
    """Read what `pack_labels` wrote; raises RemoteProtocolError if the bytes do not add up.

    `max_tokens` bounds the length of one sample, and `max_samples` their number, so that both are checked before memory
    is taken for them.
    """
    if not data:
        return {}
    header = struct.calcsize("<BI")
    if len(data) < header:
        raise RemoteProtocolError("labels end within their header")
    first, num_samples = struct.unpack_from("<BI", data)
    width, has_gaps = first % _GAPS, first >= _GAPS
    bits = header + 12 * num_samples
    if width not in (2, 4) or num_samples == 0 or len(data) < bits:
        raise RemoteProtocolError(
            f"labels of {num_samples} samples with {width}-byte tokens in {len(data)} bytes"
        )
    if max_samples is not None and num_samples > max_samples:
        raise RemoteProtocolError(f"labels of {num_samples} samples; a batch has at most {max_samples}")
    table = np.frombuffer(data, "<u4", 3 * num_samples, header).reshape(-1, 3).astype(np.int64)
    sizes = table[:, 2] - table[:, 1]
    num_tokens = int(sizes.sum())
    body = bits + (num_tokens + 7) // 8 * has_gaps
    # How many bytes there must be, before memory is taken for them.
    least = body + width * (num_samples if has_gaps else num_tokens)
    if (sizes < 1).any() or (table[:, 2] > max_tokens).any() or len(data) < least:
        raise RemoteProtocolError("labels whose lengths do not add up to the bytes received")
    learnt = _learnt(data[bits:body], sizes) if has_gaps else np.ones(num_tokens, bool)
    if body + width * int(learnt.sum()) != len(data):
        raise RemoteProtocolError("labels whose lengths do not add up to the bytes received")
    tokens = np.full(len(learnt), IGNORED, np.int64)
    tokens[learnt] = np.frombuffer(data, f"<u{width}", offset=body)
    rows = np.split(tokens, sizes.cumsum()[:-1])
    return {
        sample: np.concatenate([np.full(start, IGNORED, np.int64), row])
        for (sample, start, _), row in zip(table.tolist(), rows, strict=True)
    }


def _learnt(data: bytes, sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The bits of a batch with gaps; raises RemoteProtocolError unless each sample's first token has a label."""
    learnt = np.unpackbits(np.frombuffer(data, np.uint8), count=int(sizes.sum())).astype(bool)
    if not learnt[np.concatenate([[0], sizes.cumsum()[:-1]])].all():
        raise RemoteProtocolError("labels that do not begin where they say")
    return learnt
