"""The proxy does to real connections what it says."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep

import pytest

from .proxy import Address, Proxy

TIMEOUT_S = 60.0


@contextmanager
def echo_server() -> Iterator[tuple[Address, list[str]]]:
    """Sends back what it gets; notes how each connection ended."""
    ends: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)
                ends.append("closed")
            except ConnectionResetError:
                ends.append("reset")

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname(), ends
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.fixture
def server() -> Iterator[tuple[Address, list[str]]]:
    with echo_server() as running:
        yield running


@pytest.fixture
def proxy(server: tuple[Address, list[str]]) -> Iterator[Proxy]:
    with Proxy(server[0]) as running:
        yield running


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(proxy.address, TIMEOUT_S) as connected:
        yield connected


def receive(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := client.recv(size - len(data))):
        data += more
    return data


def round_trip_s(client: socket.socket, data: bytes) -> float:
    started = monotonic()
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    assert receive(client, len(data)) == data
    sender.join()
    return monotonic() - started


def is_ever_below(limit_s: float, client: socket.socket, data: bytes) -> bool:
    """Whether it can be so fast: a machine that is busy may make any single one slower."""
    return any(round_trip_s(client, data) < limit_s for _ in range(100))


def wait_for(ends: list[str], count: int) -> None:
    deadline = monotonic() + TIMEOUT_S
    while len(ends) < count and monotonic() < deadline:
        sleep(0.01)


def test_bytes_pass_unchanged_and_are_counted(proxy: Proxy, client: socket.socket) -> None:
    data = bytes(range(256)) * 8_000
    round_trip_s(client, data)
    assert (proxy.counts.connections, proxy.counts.resets) == (1, 0)
    assert proxy.counts.up_bytes == proxy.counts.down_bytes == len(data)


def test_the_end_of_a_stream_is_passed_on(
    server: tuple[Address, list[str]], proxy: Proxy, client: socket.socket
) -> None:
    client.sendall(b"last words")
    client.shutdown(socket.SHUT_WR)
    assert receive(client, 100) == b"last words"
    wait_for(server[1], 1)
    assert server[1] == ["closed"]


def test_latency(proxy: Proxy, client: socket.socket) -> None:
    assert is_ever_below(0.2, client, b"ping")
    proxy.latency_s = 0.2
    assert round_trip_s(client, b"ping") >= 0.4


def test_latency_delays_but_does_not_slow_down(proxy: Proxy, client: socket.socket) -> None:
    proxy.latency_s = 0.1
    assert round_trip_s(client, bytes(1 << 21)) >= 0.2
    assert is_ever_below(5.0, client, bytes(1 << 21))  # 128 pieces one after the other would take 25 s


def test_rate(proxy: Proxy, client: socket.socket) -> None:
    proxy.rate_bps = 4e6
    assert round_trip_s(client, bytes(250_000)) >= 0.5


def test_a_sender_is_held_up_by_the_rate(proxy: Proxy, client: socket.socket) -> None:
    proxy.rate_bps = 1e5
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.sendall(bytes(1 << 21))


def test_a_black_hole_holds_bytes_back_and_then_lets_them_through(
    proxy: Proxy, client: socket.socket
) -> None:
    round_trip_s(client, b"ping")
    began = monotonic()
    proxy.black_hole(0.5)
    round_trip_s(client, b"ping")
    assert monotonic() - began >= 0.5
    proxy.black_hole(60.0)
    client.sendall(b"ping")
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.recv(4)
    proxy.black_hole(0.0)
    client.settimeout(TIMEOUT_S)
    assert receive(client, 4) == b"ping"


def test_a_piece_is_held_where_it_is_to_be(proxy: Proxy, client: socket.socket) -> None:
    proxy.hold_at = (1, 3, 0.5)
    round_trip_s(client, b"ping")
    client.sendall(b"half")
    assert proxy.held.wait(TIMEOUT_S)
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.recv(4)
    proxy.release()
    client.settimeout(TIMEOUT_S)
    assert receive(client, 4) == b"half"


@pytest.mark.parametrize("limit", [{"reset_after_chunks": 4}, {"reset_after_bytes": 16}])
def test_reset_after_so_much(
    server: tuple[Address, list[str]], proxy: Proxy, client: socket.socket, limit: dict[str, int]
) -> None:
    for name, value in limit.items():
        setattr(proxy, name, value)
    for _ in range(2):
        round_trip_s(client, b"ping")
    with pytest.raises(ConnectionResetError):
        round_trip_s(client, b"ping")
    wait_for(server[1], 1)
    assert server[1] == ["reset"]
    assert (proxy.counts.resets, proxy.counts.up_bytes) == (1, 8)
    with socket.create_connection(proxy.address, TIMEOUT_S) as again:  # each connection counts anew
        round_trip_s(again, b"ping")


def test_reset_of_all_open_connections(
    server: tuple[Address, list[str]], proxy: Proxy, client: socket.socket
) -> None:
    with socket.create_connection(proxy.address, TIMEOUT_S) as other:
        for connected in (client, other):
            round_trip_s(connected, b"ping")
        proxy.reset_all()
        for connected in (client, other):
            with pytest.raises(ConnectionResetError):
                connected.recv(1)
    wait_for(server[1], 2)
    assert server[1] == ["reset", "reset"]
    assert proxy.counts.resets == 2


def test_half_open_the_server_does_not_notice(
    server: tuple[Address, list[str]], proxy: Proxy, client: socket.socket
) -> None:
    round_trip_s(client, b"ping")
    proxy.half_open_all()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with socket.create_connection(proxy.address, TIMEOUT_S) as again:
        round_trip_s(again, b"ping")
        assert server[1] == []


def bound(sock: socket.socket) -> Address:
    sock.bind(("127.0.0.1", 0))
    address: Address = sock.getsockname()
    return address


def test_a_server_that_is_not_there_is_a_reset() -> None:
    with (
        socket.socket() as reserved,  # bound and not listened at, so that nobody else takes the port
        Proxy(bound(reserved)) as proxy,
        pytest.raises(ConnectionResetError),  # already while connecting, where the proxy is quick
        socket.create_connection(proxy.address, TIMEOUT_S) as client,
    ):
        client.recv(1)


def test_leaving_closes_what_is_open(server: tuple[Address, list[str]]) -> None:
    with Proxy(server[0]) as proxy:
        proxy.black_hole(60.0)
        client = socket.create_connection(proxy.address, TIMEOUT_S)
        client.sendall(b"ping")
    with client, pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(proxy.address, TIMEOUT_S)
