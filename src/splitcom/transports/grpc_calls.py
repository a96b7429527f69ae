"""A client's calls beside its conversation: what the run is, how fast the link is, the front's weights."""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Self, TypeVar

import grpc

from splitcom.durable import make_folder, new_folder
from splitcom.errors import RefusedError, TransportError
from splitcom.lock import locked
from splitcom.transports.dialler import Dialler
from splitcom.transports.frames_pb2 import (
    Description,
    FilePiece,
    FrontInquiry,
    FrontListing,
    FrontRequest,
    Inquiry,
    Probe,
)
from splitcom.transports.front_files import CONFIG, WEIGHTS, Download, FrontFiles
from splitcom.transports.grpc import (
    PROBE_BYTES,
    SERVICE,
    TRANSPORT_VERSION,
    Timeouts,
)
from splitcom.transports.tls import Identity

_ResultT = TypeVar("_ResultT")
_LOG = logging.getLogger(__name__)
_SMALL_PROBE_BYTES = 1 << 13  # at 1 Mbit/s 66 ms: a link on which this takes no time is not slow
_PROBE_S = 0.3  # a probe that takes that long measures a rate well enough


@dataclass(frozen=True)
class LinkMeasurement:
    """What a link can do; rates in bits per second."""

    round_trip_s: float
    up_bps: float
    down_bps: float


class ServerCalls:
    """The calls beside the conversation; a context manager. They wait for a server that is not there yet.

    All raise RefusedError with the server's reason, and TransportError if it cannot be reached in time.
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

    def measure(self, *, thorough: bool = False) -> LinkMeasurement:
        """Round trip with hardly any data, and the rate each way with a few kilobytes: enough to know a slow link.

        Thoroughly, with as much as takes a moment, which may be a megabyte. Where the connection breaks under the
        larger probes, the last one that has passed tells.
        """
        call = self._channel.unary_unary(f"/{SERVICE}/Probe", Probe.SerializeToString, Probe.FromString)

        def seconds(up_bytes: int, down_bytes: int) -> float:
            probe = Probe(data=bytes(up_bytes), answer_bytes=down_bytes)
            started = perf_counter()
            call(probe, timeout=self._dialler.timeouts.give_up_s)
            return perf_counter() - started

        def rate(up: bool) -> float:
            size = _SMALL_PROBE_BYTES
            took = self._patiently(lambda: seconds(size * up, size * (not up)))
            with suppress(grpc.RpcError):
                while thorough and took < _PROBE_S and size < PROBE_BYTES:
                    took = seconds(2 * size * up, 2 * size * (not up))
                    size *= 2
            return 8 * size / max(took - round_trip_s, 1e-6)

        round_trip_s = min(self._patiently(lambda: seconds(0, 0)) for _ in range(4))
        return LinkMeasurement(round_trip_s, rate(up=True), rate(up=False))

    def fetch_front(self, cache: Path, limit_bytes: int, check: Callable[[Path, int], None]) -> Path:
        """The folder below `cache` that holds the front's files as the server lists them now; fetched if need be.

        `check` is given the folder as soon as it has the model's configuration, and how large the weights are said to
        be; it may raise. Raises RemoteProtocolError if the server sends what is no front, or not what it has
        listed, or would send more than `limit_bytes`.
        """
        listing = self._channel.unary_unary(
            f"/{SERVICE}/FrontFiles", FrontInquiry.SerializeToString, FrontListing.FromString
        )
        files = FrontFiles.of(self._patiently(lambda: listing(FrontInquiry())), limit_bytes)
        folder = cache / f"front-{files.digest[:32]}"
        try:
            make_folder(cache.parent)
            make_folder(cache, private=True)
            with locked(cache / f".{folder.name}.lock", "wait for it", waits=True):
                if not files.are_in(folder):
                    self._fetch(files, folder, check)
        except OSError as error:
            raise TransportError(
                f"{folder}: cannot be written: {error.strerror or error}; choose another folder with --cache"
            ) from error
        return folder

    def _fetch(self, files: FrontFiles, folder: Path, check: Callable[[Path, int], None]) -> None:
        if folder.exists():
            _LOG.warning("%s: not what the server lists under this name; fetched anew", folder)
        else:
            _LOG.info("the front's weights, %.1f MB, are fetched from the server", files.num_bytes / 1e6)
        stream = self._channel.unary_stream(
            f"/{SERVICE}/Front", FrontRequest.SerializeToString, FilePiece.FromString
        )

        def on_file(path: Path) -> None:
            if path.name == CONFIG:
                check(path.parent, files.sizes[WEIGHTS])

        with new_folder(folder, private=True) as partial:
            download = Download(files, partial, on_file)
            self._patiently(lambda: download.take(stream(download.missing()), self._dialler.note_success))

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
