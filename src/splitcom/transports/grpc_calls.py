"""A client's calls beside its conversation: what the run is, how fast the link is, the front's weights."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Self, TypeVar

import grpc

from splitcom.durable import make_folder, make_private, put_in_place
from splitcom.errors import RefusedError, RemoteProtocolError, TransportError
from splitcom.transports.dialler import Dialler
from splitcom.transports.frames_pb2 import Description, FilePiece, FrontRequest, Inquiry, Probe
from splitcom.transports.grpc import (
    PROBE_BYTES,
    SERVICE,
    TRANSPORT_VERSION,
    Timeouts,
)
from splitcom.transports.tls import Identity

_ResultT = TypeVar("_ResultT")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.(json|safetensors|txt|model|jinja)")
_MAX_FILES = 100
_PROBE_S = 0.3  # a probe that takes that long measures a rate well enough


@dataclass(frozen=True)
class LinkMeasurement:
    """What a link can do; rates in bits per second."""

    round_trip_s: float
    up_bps: float
    down_bps: float


class ServerCalls:
    """The calls beside the conversation; a context manager. They wait for a server that is not there yet.

    All raise RefusedError with the server's reason, and TransportError where it cannot be reached in time.
    """

    def __init__(self, address: str, identity: Identity, timeouts: Timeouts | None = None) -> None:
        self._dialler = Dialler(address, identity, timeouts or Timeouts())
        self._channel = self._dialler.channel()

    def describe(self, model_fingerprint: str = "") -> Description:
        """What the run is; with a fingerprint, refused where the server has another base model."""
        inquiry = Inquiry(
            protocol_version=TRANSPORT_VERSION,
            package_version=version("splitcom"),
            model_fingerprint=model_fingerprint,
        )
        call = self._channel.unary_unary(
            f"/{SERVICE}/Describe", Inquiry.SerializeToString, Description.FromString
        )
        description = self._patiently(lambda: call(inquiry, timeout=self._dialler.timeouts.connect_s))
        if description.protocol_version != TRANSPORT_VERSION:
            raise RefusedError(
                f"the server's protocol version is {description.protocol_version}, this one's {TRANSPORT_VERSION}: "
                "install the same release of splitcom"
            )
        return description

    def measure(self) -> LinkMeasurement:
        """Round trip with hardly any data, and the rate each way with as much as takes a moment.

        Where the connection breaks under the larger probes, the last one that has passed tells.
        """
        call = self._channel.unary_unary(f"/{SERVICE}/Probe", Probe.SerializeToString, Probe.FromString)

        def seconds(up_bytes: int, down_bytes: int) -> float:
            probe = Probe(data=bytes(up_bytes), answer_bytes=down_bytes)
            started = perf_counter()
            call(probe, timeout=self._dialler.timeouts.give_up_s)
            return perf_counter() - started

        def rate(up: bool) -> float:
            size = 1 << 14
            took = self._patiently(lambda: seconds(size * up, size * (not up)))
            with suppress(grpc.RpcError):
                while took < _PROBE_S and size < PROBE_BYTES:
                    took = seconds(2 * size * up, 2 * size * (not up))
                    size *= 2
            return 8 * size / max(took - round_trip_s, 1e-6)

        round_trip_s = min(self._patiently(lambda: seconds(0, 0)) for _ in range(4))
        return LinkMeasurement(round_trip_s, rate(up=True), rate(up=False))

    def fetch_front(self, folder: Path) -> Path:
        """Have the server send the front's files into `folder`, which is there whole or not at all.

        Raises RemoteProtocolError where the server sends what is no such folder.
        """
        if folder.exists():
            return folder
        make_folder(folder.parent, private=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        stream = self._channel.unary_stream(
            f"/{SERVICE}/Front", FrontRequest.SerializeToString, FilePiece.FromString
        )
        files = _Files(partial, self._dialler.note_success)
        try:
            self._patiently(lambda: files.take(stream(files.missing())))
            make_private(partial)
            try:
                put_in_place(partial, folder)
            except OSError:
                if not folder.exists():  # else another process of this machine was faster
                    raise
        except OSError as error:
            raise TransportError(
                f"{folder}: cannot be written: {error.strerror or error}; choose another --cache"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return folder

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _patiently(self, attempt: Callable[[], _ResultT]) -> _ResultT:
        while True:
            try:
                result = attempt()
            except grpc.RpcError as error:
                self._dialler.wait_after(error)
            else:
                self._dialler.note_success()
                return result


class _Files:
    """The files of a model folder, as they come over connections that may break: each goes on where the last was."""

    def __init__(self, folder: Path, on_piece: Callable[[], None]) -> None:
        self._folder = folder
        self._on_piece = on_piece
        self._written: dict[str, int] = {}
        self._sizes: dict[str, int] = {}

    def missing(self) -> FrontRequest:
        """What is to come."""
        name = max(self._written, default="")
        return FrontRequest(name=name, offset=self._written.get(name, 0))

    def take(self, pieces: Iterator[FilePiece]) -> None:
        """Write to the end; nothing but plain files of known kinds, and each without gaps."""
        for piece in pieces:
            self._write(piece)
            self._on_piece()
        if not {"config.json", "model.safetensors"} <= self._written.keys() or self._written != self._sizes:
            raise RemoteProtocolError("the server has sent an incomplete model")

    def _write(self, piece: FilePiece) -> None:
        name, offset = piece.name, self._written.setdefault(piece.name, 0)
        if not _FILE_NAME.fullmatch(name) or len(self._written) > _MAX_FILES:
            raise RemoteProtocolError(f"the server sends a file {name!r}, which is no part of a model")
        end = offset + len(piece.data)
        if (
            piece.offset != offset
            or end > piece.size
            or self._sizes.setdefault(name, piece.size) != piece.size
        ):
            raise RemoteProtocolError(f"the server sends {len(piece.data)} bytes at {piece.offset} of {name}")
        with (self._folder / name).open("ab") as file:
            file.write(piece.data)
        self._written[name] = end
