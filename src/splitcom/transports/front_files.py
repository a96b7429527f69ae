"""The files of a front on their way to a client: which there may be, what they are said to be, and that they are that.

The server lists them with their hashes; a client takes what it is listed and nothing else. What it keeps is named by
a hash of the list, and is used again only if this server lists the same and its content is still that. So nothing
that one server has sent is ever taken for another's. Knows no model and no network.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from splitcom.errors import RemoteProtocolError
from splitcom.foreign import visible
from splitcom.transports.frames_pb2 import FilePiece, FrontFile, FrontListing, FrontRequest
from splitcom.transports.grpc import PIECE_BYTES

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_NAMES = frozenset(
    {
        WEIGHTS, CONFIG, "generation_config.json",
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
        "vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja",
        "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
    }
)  # fmt: skip
_TEXT_BYTES = 1 << 27  # of any file but the weights; the largest tokenizers have 35 MB


def list_files(folder: Path) -> FrontListing:
    """What a server says of the folder that it sends."""
    listing = FrontListing()
    for path in sorted(folder.iterdir()):
        listing.files.append(FrontFile(name=path.name, size=path.stat().st_size, sha256=_sha256(path)))
    return listing


def pieces(folder: Path, request: FrontRequest) -> Iterator[FilePiece]:
    """The files in the order of their names, from what is asked for on."""
    for path in sorted(folder.iterdir()):
        if path.name >= request.name:
            yield from _pieces(path, request.offset if path.name == request.name else 0)


def _pieces(path: Path, offset: int) -> Iterator[FilePiece]:
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(min(offset, size))
        while True:
            offset = file.tell()
            data = file.read(PIECE_BYTES)
            yield FilePiece(name=path.name, offset=offset, size=size, data=data)
            if offset + len(data) >= size:
                return


@dataclass(frozen=True)
class FrontFiles:
    """What a server has listed; sizes and hashes by name."""

    sizes: dict[str, int]
    hashes: dict[str, bytes]

    @classmethod
    def of(cls, listing: FrontListing, limit_bytes: int) -> "FrontFiles":
        """Believe a list; raises RemoteProtocolError if it is none of a front, or of more bytes than are taken."""
        sizes = {file.name: file.size for file in listing.files}
        if len(sizes) != len(listing.files) or not {CONFIG, WEIGHTS} <= sizes.keys():
            raise RemoteProtocolError("the server lists files that are no model")
        for file in listing.files:
            if file.name not in _NAMES or len(file.sha256) != 32:
                raise RemoteProtocolError(
                    f"the server lists a file {visible(file.name, 80)!r}, which is no part of a front"
                )
            if file.name != WEIGHTS and file.size > _TEXT_BYTES:
                raise RemoteProtocolError(f"the server lists {file.size} bytes of {file.name}")
        files = cls(sizes, {file.name: file.sha256 for file in listing.files})
        if files.num_bytes > limit_bytes:
            raise RemoteProtocolError(
                f"the server would send a front of {files.num_bytes / 1e6:.1f} MB, and at most "
                f"{limit_bytes / 1e6:.1f} MB are taken; if that is right, raise --max-download-mb"
            )
        return files

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(self.sizes.values())

    @property
    def digest(self) -> str:
        """A hash of all that is listed, in hexadecimal digits."""
        found = hashlib.sha256()
        for name in sorted(self.sizes):
            found.update(f"{name}/{self.sizes[name]}/".encode() + self.hashes[name])
        return found.hexdigest()

    def are_in(self, folder: Path) -> bool:
        """Whether a folder holds these files, with this content, and nothing else."""
        try:
            return {path.name: _sha256(path) for path in folder.iterdir()} == self.hashes
        except OSError:
            return False


class Download:
    """Files as they come over connections that may break: each goes on where the last was.

    `on_file` is called with each file as soon as it is whole and is what was listed; it may raise.
    """

    def __init__(self, files: FrontFiles, folder: Path, on_file: Callable[[Path], None]) -> None:
        self._files = files
        self._folder = folder
        self._on_file = on_file
        self._written: dict[str, int] = {}

    def missing(self) -> FrontRequest:
        """What is to come."""
        name = max(self._written, default="")
        return FrontRequest(name=name, offset=self._written.get(name, 0))

    def take(self, some: Iterable[FilePiece], on_piece: Callable[[], None]) -> None:
        """Write to the end; raises RemoteProtocolError for anything but what was listed, without gaps."""
        for piece in some:
            self._write(piece)
            on_piece()
        if self._written != self._files.sizes:
            raise RemoteProtocolError("the server has sent less than it has listed")

    def _write(self, piece: FilePiece) -> None:
        name = piece.name
        if name not in self._files.sizes:
            raise RemoteProtocolError(f"the server sends {visible(name, 80)!r}, which it has not listed")
        offset, size = self._written.setdefault(name, 0), self._files.sizes[name]
        end = offset + len(piece.data)
        if piece.offset != offset or end > size:
            raise RemoteProtocolError(f"the server sends {len(piece.data)} bytes at {piece.offset} of {name}")
        path = self._folder / name
        with path.open("ab") as file:
            file.write(piece.data)
        self._written[name] = end
        if end == size and (piece.data or not size):
            if _sha256(path) != self._files.hashes[name]:
                raise RemoteProtocolError(f"what the server has sent as {name} is not what it has listed")
            self._on_file(path)


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
