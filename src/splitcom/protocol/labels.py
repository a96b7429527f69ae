"""How the labels of a batch become bytes: where the response starts, then its token ids.

Labels never change, so a client sends each sample's once and the server keeps them. Layout, little-endian:

  u8 bytes per token id (2 or 4) │ u32 samples │ samples × (u32 id, u32 start, u32 length) │ token ids, ragged

`start` is the number of prompt tokens, whose label is IGNORED. A sample that has a class has that one label.
"""

import struct
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from splitcom.errors import RemoteProtocolError

IGNORED = -100
Labels = NDArray[np.int64]


def pack_labels(labels: Mapping[int, Labels]) -> bytes:
    """Serialise labels by sample id; each is int64 [tokens], IGNORED on the prompt and nowhere else."""
    if not labels:
        return b""
    starts = [int((row != IGNORED).argmax()) for row in labels.values()]
    tokens = np.concatenate([row[start:] for row, start in zip(labels.values(), starts, strict=True)])
    width = 2 if tokens.max(initial=0) < 1 << 16 else 4
    table = np.array(
        [(sample, start, len(row)) for (sample, row), start in zip(labels.items(), starts, strict=True)],
        dtype="<u4",
    )
    return struct.pack("<BI", width, len(labels)) + table.tobytes() + tokens.astype(f"<u{width}").tobytes()


def most_label_bytes(num_samples: int, max_tokens: int) -> int:
    """What the labels of so many samples take at most."""
    return struct.calcsize("<BI") + num_samples * (12 + 4 * max_tokens)


def unpack_labels(data: bytes, max_tokens: int, max_samples: int | None = None) -> dict[int, Labels]:
    """Read what `pack_labels` wrote; raises RemoteProtocolError where the bytes do not add up.

    `max_tokens` bounds the length of one sample, and `max_samples` their number, so that both are checked before memory
    is taken for them.
    """
    if not data:
        return {}
    header = struct.calcsize("<BI")
    if len(data) < header:
        raise RemoteProtocolError("labels end within their header")
    width, num_samples = struct.unpack_from("<BI", data)
    body = header + 12 * num_samples
    if width not in (2, 4) or num_samples == 0 or len(data) < body:
        raise RemoteProtocolError(
            f"labels of {num_samples} samples with {width}-byte tokens in {len(data)} bytes"
        )
    if max_samples is not None and num_samples > max_samples:
        raise RemoteProtocolError(f"labels of {num_samples} samples; a batch has at most {max_samples}")
    table = np.frombuffer(data, "<u4", 3 * num_samples, header).reshape(-1, 3).astype(np.int64)
    sizes = table[:, 2] - table[:, 1]
    if (sizes < 1).any() or (table[:, 2] > max_tokens).any() or body + width * sizes.sum() != len(data):
        raise RemoteProtocolError("labels whose lengths do not add up to the bytes received")
    tokens = np.frombuffer(data, f"<u{width}", offset=body).astype(np.int64)
    labels = {}
    for (sample, start, length), row in zip(
        table.tolist(), np.split(tokens, sizes.cumsum()[:-1]), strict=True
    ):
        labels[sample] = np.concatenate([np.full(start, IGNORED, np.int64), row])
        assert len(labels[sample]) == length
    return labels
