"""A server's process under connections that come to nothing: honest clients train as if they were alone."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import pytest

from splitcom.config import Config
from splitcom.errors import RefusedError
from splitcom.methods.run import train
from splitcom.protocol.messages_pb2 import Failure, Hello, Message
from splitcom.transports import tls
from splitcom.transports.grpc import SERVICE, Timeouts
from splitcom.transports.grpc_client import run_client

from .parties import PATIENCE_S, Deployment, fork_server, free_port, make_authority

STREAMS = 60  # of one certificate, and of the other ones together
OTHERS = 5
UNFINISHED = 60  # connections without TLS
MOST_THREADS = 100  # of the server's process; those of an undisturbed one are as many as with a single client


@contextmanager
def silent_streams(port: int, bundle: Path, method: str, count: int) -> Iterator[list[grpc.Call]]:
    """Keep that many calls open that say nothing, over connections of their own; one that is ended is made again."""
    identity, stop = tls.load_identity(bundle), threading.Event()
    credentials = grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)
    begun: list[grpc.Call] = []

    def say_nothing() -> Iterator[bytes]:
        stop.wait()
        yield from ()

    def keep(num_calls: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(f"localhost:{port}", credentials, options) as channel:
            calls: list[Any] = []
            while not stop.is_set():
                calls = [call for call in calls if call.is_active()]
                for _ in range(num_calls - len(calls)):
                    calls.append(channel.stream_stream(f"/{SERVICE}/{method}")(say_nothing()))
                begun.extend(calls[len(calls) - num_calls :])
                stop.wait(0.3)
            for call in calls:
                call.cancel()

    threads = [threading.Thread(target=keep, args=(6,)) for _ in range(count // 6)]
    for thread in threads:
        thread.start()
    try:
        yield begun
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def unfinished_connections(port: int) -> Iterator[None]:
    """Connections that never get through TLS: some say nothing at all, some the beginning of a hello."""
    with ExitStack() as stack:
        for index in range(UNFINISHED):
            connection = stack.enter_context(socket.create_connection(("localhost", port)))
            if index % 2:
                connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        yield


def threads_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Threads:"))


class Hostile:
    """Says one thing in place of a hello."""

    finished = False

    def __init__(self, data: bytes) -> None:
        self._data = data

    def connect(self) -> bytes:
        return self._data

    def receive(self, data: bytes) -> bytes:
        raise RefusedError(Message.FromString(data).failure.reason)


def odd_certificate(authority: Path, name: str, bundle: Path) -> tls.Identity:
    """That of an authority which has been tampered with."""
    with mock.patch.object(tls, "check_name", lambda name: name):
        return tls.load_identity(tls._issue(authority, name, "client", bundle, 1, None))


def peak_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured in /proc")
def test_hostile_messages_and_names_cost_a_server_little_and_leave_no_trace(
    tiny_config: Config, tmp_path: Path
) -> None:
    authority = make_authority(tmp_path / "authority")
    network = Deployment(fork_server(), authority, tiny_config, tmp_path, port=free_port()).start_server()
    honest = [network.client(index).start() for index in range(2)]
    for index in range(2):
        network.server.wait_for(f"client-{index} is connected")
    address, hasty = f"localhost:{network.port}", Timeouts(connect_s=PATIENCE_S, give_up_s=PATIENCE_S)
    insider = tls.load_identity(authority / "clients" / "client-2.pem")
    pid = network.server.process.pid
    before = peak_of(pid)
    for data, reason in (
        (
            Message(hello=Hello(saved_rounds=[1] * (8 << 20))).SerializeToString(),
            "bytes is announced; at most",
        ),
        (
            Message(hello=Hello(client="x" * 200_000)).SerializeToString(),
            "'hello' of .* bytes; at most 65536",
        ),
        (
            Message(failure=Failure(reason="no\n\x1b[2J" * 20_000)).SerializeToString(),
            "'failure' of .* bytes",
        ),
        (b"\n\x1b[2J", "no message"),
    ):
        with pytest.raises(RefusedError, match=reason):
            run_client(address, insider, partial(Hostile, data), hasty)
    assert peak_of(pid) - before < 64 << 20
    for index, name in enumerate(("../../../pwn", "a\x1b[2J", ".hidden")):
        identity = odd_certificate(authority, name, tmp_path / f"odd-{index}.pem")
        with pytest.raises(grpc.RpcError, match="client name"):
            describe(address, identity)
    assert "\x1b" not in network.server.log and "pwn" in network.server.log
    assert all(
        re.match(r"\d{4}-\d\d-\d\d |[EWI]\d{4} |WARNING: All log", line)
        for line in network.server.log.splitlines()
    )
    for party in (*honest, network.client(2).start(), network.server):
        party.end()
    assert not [path for path in (*tmp_path.parents, *tmp_path.rglob("*")) if path.name in ("pwn", ".hidden")]
    network.assert_same_run(train(tiny_config, tmp_path / "in-process"))


def describe(address: str, identity: tls.Identity) -> None:
    credentials = grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)
    with grpc.secure_channel(address, credentials) as channel:
        channel.unary_unary(f"/{SERVICE}/Describe")(b"", timeout=PATIENCE_S)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="threads are counted in /proc")
def test_silent_connections_keep_nobody_out(tiny_config: Config, tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "authority")
    others = [tls.issue_client(authority, f"other-{index}") for index in range(OTHERS)]
    names = [f"client-{index}" for index in range(3)]
    config = tiny_config.override({"federation.names": names})
    expected = train(config, tmp_path / "in-process")
    network = Deployment(fork_server(), authority, config, tmp_path, port=free_port()).start_server()
    own = authority / "clients" / "client-2.pem"  # also of a client that takes part
    with ExitStack() as stack:
        stack.enter_context(unfinished_connections(network.port))
        for method in ("Converse", "Describe"):
            stack.enter_context(silent_streams(network.port, own, method, STREAMS // 2))
            for other in others:
                stack.enter_context(silent_streams(network.port, other, method, STREAMS // OTHERS // 2))
        network.server.wait_for("other-0, from .*federation.names")
        *others_of_run, last = network.clients()
        parties = [*(client.start() for client in others_of_run), last.start(hold=2)]
        last.wait_until_held()
        assert threads_of(network.server.process.pid) < MOST_THREADS
        last.release()
        for party in (*parties, network.server):
            party.end()
    network.assert_same_run(expected)
