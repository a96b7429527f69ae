"""A TCP proxy on loopback that is a bad network: slow, far away, silent, or cutting connections. Knows no protocol.

    client ─► read, at most at the rate ─► [chunks] ─► write, when the latency and black holes are over ─► upstream
       ▲                                                                                                 │
       └─────────────────────────────────── the same backwards ◄─────────────────────────────────────────┘

Everything may be changed while connections are open; a test calls the methods from its own thread.

>>> with Proxy(("127.0.0.1", 9)) as proxy:
...     proxy.latency_s = 0.1
...     proxy.address[0]
'127.0.0.1'
"""

import asyncio
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType
from typing import Self

Address = tuple[str, int]

_CHUNK_BYTES = 1 << 14
_QUEUE_CHUNKS = 1 << 10
_SOCKET_BUFFER_BYTES = 1 << 16
_CONNECT_S = 5.0
_POLL_S = 0.1


@dataclass
class Counts:
    """What has passed since the proxy's start."""

    connections: int = 0
    resets: int = 0
    chunks: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    chunks_of: Counter[int] = field(default_factory=Counter)  # by number of the connection, from 1


class _Connection:
    """A client's socket and the one that was opened upstream for it."""

    def __init__(self, number: int, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.number = number
        self.is_half_open = False
        self.chunks = 0
        self.num_bytes = 0

    def reset(self) -> None:
        """Cut both sides with a RST: what is under way is lost, and both see an error."""
        _reset(self.client)
        _reset(self.server)

    def abandon(self) -> None:
        """Cut the client's side only; the server is told nothing and hears no more."""
        self.is_half_open = True
        _reset(self.client)


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):  # of a socket that is closed already
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


def _limit_buffer(sock: socket.socket) -> None:
    """Or else the kernel would take megabytes off a sender that should be held up."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)


class Proxy:
    """Listens on a free port of loopback, at `address`, and connects each client to `upstream`.

    Args:
        upstream: where the server listens.

    Attributes:
        latency_s: added to every byte, each way.
        rate_bps: bits per second of each direction of each connection; None for no limit.
        reset_after_chunks: pieces of up to 16 KiB that a connection passes, both directions together, before
            the next resets it; None for no limit.
        reset_after_bytes: the same in bytes.
        hold_at: (connection, chunk, share): after this share of that connection's chunk has passed, nothing does any
            more until `release`, and `held` is set. Numbered from 1, both directions together; None for nowhere.
        counts: what has passed.
    """

    def __init__(self, upstream: Address) -> None:
        self.latency_s = 0.0
        self.rate_bps: float | None = None
        self.reset_after_chunks: int | None = None
        self.reset_after_bytes: int | None = None
        self.hold_at: tuple[int, int, float] | None = None
        self.held = threading.Event()
        self.counts = Counts()
        self._upstream = upstream
        self._black_until = 0.0
        self._connections: set[_Connection] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        _limit_buffer(self._listener)  # what is accepted inherits it
        self.address: Address = self._listener.getsockname()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self._serve(),), daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self._loop.close()

    def black_hole(self, duration_s: float) -> None:
        """Let nothing through for a while: connections stay open, new ones are accepted, bytes wait. 0 ends it."""
        self._black_until = monotonic() + duration_s

    def release(self) -> None:
        """Let everything pass again; nothing is held any more."""
        self.hold_at = None
        self.held.clear()

    def reset_all(self) -> None:
        """Cut every open connection; returns when that is done."""
        self._for_all(self._reset)

    def half_open_all(self) -> None:
        """Cut every client off while the server goes on believing in its connection: as when a machine is lost."""
        self._for_all(_Connection.abandon)

    def _for_all(self, action: Callable[[_Connection], None]) -> None:
        async def act() -> None:
            for connection in list(self._connections):
                action(connection)

        asyncio.run_coroutine_threadsafe(act(), self._loop).result()

    async def _serve(self) -> None:
        accepted: dict[asyncio.Task[None], socket.socket] = {}
        with suppress(OSError):  # the listener has been shut down
            while True:
                sock, _ = await self._loop.sock_accept(self._listener)
                accepted[self._loop.create_task(self._accept(sock))] = sock
        for task in accepted:
            task.cancel()
        await asyncio.gather(*accepted, return_exceptions=True)
        await asyncio.sleep(0)  # sockets are closed one turn after their transports
        for sock in accepted.values():  # a task that was cancelled before it began has not
            sock.close()

    async def _accept(self, sock: socket.socket) -> None:
        self.counts.connections += 1
        number = self.counts.connections
        client_reader, client = await asyncio.open_connection(sock=sock)
        try:
            server_reader, server = await self._connect()
        except (OSError, asyncio.CancelledError):
            _reset(client)
            return
        connection = _Connection(number, client, server)
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(connection, client_reader, server, up=True))
                both.create_task(self._carry(connection, server_reader, client, up=False))
        except* (OSError, asyncio.CancelledError):  # one side is gone, so is the other; or the proxy is
            connection.reset()
        finally:
            client.close()
            server.close()
            self._connections.discard(connection)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = socket.socket()
        sock.setblocking(False)
        _limit_buffer(sock)
        try:
            async with asyncio.timeout(_CONNECT_S):
                await self._loop.sock_connect(sock, self._upstream)
        except BaseException:
            sock.close()
            raise
        return await asyncio.open_connection(sock=sock)

    async def _carry(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        """One direction, to its end."""
        arrived: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUE_CHUNKS)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(reader, arrived))
            group.create_task(self._write(connection, arrived, writer, up=up))

    async def _read(self, reader: asyncio.StreamReader, arrived: asyncio.Queue[tuple[float, bytes]]) -> None:
        free_at, chunk = 0.0, b"-"
        while chunk:
            chunk = await reader.read(_CHUNK_BYTES)
            if self.rate_bps is not None:
                free_at = max(monotonic(), free_at) + 8 * len(chunk) / self.rate_bps
                await asyncio.sleep(free_at - monotonic())
            await arrived.put((monotonic(), chunk))

    async def _write(
        self,
        connection: _Connection,
        arrived: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        *,
        up: bool,
    ) -> None:
        while True:
            arrival, chunk = await arrived.get()
            while (wait_s := max(arrival + self.latency_s, self._black_until) - monotonic()) > 0:
                await asyncio.sleep(min(wait_s, _POLL_S))  # either may be changed meanwhile
            while self.held.is_set():
                await asyncio.sleep(_POLL_S)
            if connection.is_half_open:
                if not chunk:
                    return
                continue
            if not chunk:
                break
            self._count(connection, len(chunk), up=up)
            if self.hold_at is not None and (connection.number, connection.chunks) == self.hold_at[:2]:
                await self._hold(chunk, self.hold_at[2], writer)
                continue
            writer.write(chunk)
            await writer.drain()
        if not writer.is_closing():
            writer.write_eof()

    async def _hold(self, chunk: bytes, share: float, writer: asyncio.StreamWriter) -> None:
        """Let a part of a chunk pass, and the rest after `release`."""
        passing = int(share * len(chunk))
        writer.write(chunk[:passing])
        await writer.drain()
        self.held.set()
        while self.held.is_set():
            await asyncio.sleep(_POLL_S)
        writer.write(chunk[passing:])

    def _count(self, connection: _Connection, num_bytes: int, *, up: bool) -> None:
        """Count a chunk that is about to pass; raises ConnectionResetError where it is one too many."""
        connection.chunks += 1
        connection.num_bytes += num_bytes
        limits = (self.reset_after_chunks, connection.chunks), (self.reset_after_bytes, connection.num_bytes)
        if any(limit is not None and reached > limit for limit, reached in limits):
            self._reset(connection)
            raise ConnectionResetError
        self.counts.chunks += 1
        self.counts.chunks_of[connection.number] += 1
        if up:
            self.counts.up_bytes += num_bytes
        else:
            self.counts.down_bytes += num_bytes

    def _reset(self, connection: _Connection) -> None:
        self.counts.resets += 1
        connection.reset()
