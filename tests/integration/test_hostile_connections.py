"""A server's process under connections that come to nothing: honest clients train as if they were alone."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from splitcom.config import Config
from splitcom.methods.run import train
from splitcom.transports import tls
from splitcom.transports.grpc import SERVICE

from .parties import Deployment, fork_server, free_port, make_authority

STREAMS = 60  # of one certificate, and of the other ones together
OTHERS = 5
UNFINISHED = 60  # connections without TLS
MOST_THREADS = 100  # of the server's process; those of an undisturbed one are about 40


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
        time.sleep(0.5)
        parties = [client.start() for client in network.clients()]
        network.server.wait_for("round 1 of 2 is done")
        assert threads_of(network.server.process.pid) < MOST_THREADS
        for party in (*parties, network.server):
            party.end()
    network.assert_same_run(expected)
    assert "other-0, from" in network.server.log and "federation.names" in network.server.log
