"""Pages over HTTP from a thread of their own: read only, and for this machine alone by default; knows no run."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import BoundedSemaphore
from typing import Any

from splitcom.errors import RunError
from splitcom.transports.thread import start

_LOG = logging.getLogger(__name__)
_HERE = ("localhost", "127.0.0.1", "::1")
_TIMEOUT_S = 10.0  # for whoever does not take what it asked for
_MOST_AT_ONCE = 32


@dataclass(frozen=True)
class Answer:
    """What a page says: all at once, or part after part, each sent as soon as it is there."""

    body: bytes | Iterable[bytes]
    kind: str = "text/plain; charset=utf-8"
    status: int = 200


class Pages:
    """Answers GET by path; a context manager, which waits for what is being sent.

    `option` is what chose the address, `named_here` refuses requests under another name than this machine's own if only
    it can ask (a page of somebody else's could else have its name resolved to this machine, and read on). `port` is the
    one it got if 0 was asked for. Raises RunError if it cannot listen.
    """

    def __init__(
        self,
        routes: Mapping[str, Callable[[], Answer]],
        address: tuple[int, str],
        option: str,
        *,
        named_here: bool = False,
    ) -> None:
        port, host = address
        handler = _handler(routes, _HERE if named_here and host in _HERE else None)
        try:
            self._server = _Server((host, port), handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RunError(f"{option} {host}:{port}: {reason}; choose another address or port") from error
        self.port = int(self._server.server_address[1])
        self._thread = start("pages", self._server.serve_forever, _log_the_end)

    def __enter__(self) -> "Pages":
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(
    routes: Mapping[str, Callable[[], Answer]], names: Sequence[str] | None
) -> type[BaseHTTPRequestHandler]:
    """What answers each request; `names` are those under which it may be asked, None: any."""
    *most, last = routes
    missing = Answer(f"there is {', '.join(most)}{' and ' * bool(most)}{last}\n".encode(), status=404)
    seats = BoundedSemaphore(_MOST_AT_ONCE)

    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S

        def do_GET(self) -> None:
            name = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
            if names is not None and name.strip("[]") not in names:
                return self._answer(Answer(b"ask for this by the name localhost\n", status=403))
            if not seats.acquire(blocking=False):
                return self._answer(Answer(b"too many are looking already\n", status=503))
            try:
                return self._answer(routes.get(self.path.partition("?")[0], lambda: missing)())
            finally:
                seats.release()

        def _answer(self, answer: Answer) -> None:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            self.send_header("Cache-Control", "no-store")
            if isinstance(answer.body, bytes):
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            try:
                for part in [answer.body] if isinstance(answer.body, bytes) else answer.body:
                    self.wfile.write(part)
            except OSError:
                self.close_connection = True  # whoever asked has gone

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing: a look every few seconds is no news."""

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for what is being sent

    def handle_error(self, request: Any, client_address: Any) -> None:
        _LOG.debug("a page could not be answered", exc_info=True)


def address_of(text: str, option: str) -> tuple[int, str]:
    """Port and host of "HOST:PORT", or of a port alone; raises RunError if it is neither.

    >>> address_of("9100", "--metrics"), address_of("0.0.0.0:9100", "--metrics")
    ((9100, '127.0.0.1'), (9100, '0.0.0.0'))
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal():
        raise RunError(f"{option} {text}: expected HOST:PORT or PORT, such as 127.0.0.1:9100")
    return int(port), host.strip("[]") or "127.0.0.1"


def _log_the_end(error: BaseException) -> None:
    """Nobody waits for the pages, and a run goes on without them."""
    _LOG.error("pages are not served any more", exc_info=error)
