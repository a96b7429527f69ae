"""The namespaces' links are as slow as they say, their counters count, and nothing is left behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import netns
from .netns import Namespace, Network, Unsupported

PORT = 7000
NOISE_BYTES = 1_000
SERVE = """
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    wanted = int(connection.makefile("rb").readline())
    while connection.recv(1 << 16):
        pass
    connection.sendall(bytes(wanted) + b".")
    connection.close()
"""
SEND = """
import socket, sys, time
address, port, up, down = sys.argv[1], *map(int, sys.argv[2:])
connection = socket.create_connection((address, port))
connection.sendall(b"%d\\n" % down)
started = time.monotonic()
connection.sendall(bytes(up))
connection.shutdown(socket.SHUT_WR)
while connection.recv(1 << 16):
    pass
print(time.monotonic() - started)
"""


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(2) as made:
        command = [sys.executable, "-c", SERVE, made.server.address, str(PORT)]
        with made.server.popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield made
            process.kill()


def namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout


def transfer_s(network: Network, client: Namespace, *, up: int = 0, down: int = 0) -> float:
    command = [sys.executable, "-c", SEND, network.server.address, str(PORT), str(up), str(down)]
    with client.popen(command, stdout=subprocess.PIPE, text=True) as process:
        return float(process.communicate(timeout=180)[0])


def is_ever_below(limit_s: float, network: Network, client: Namespace, up: int) -> bool:
    """Whether it can be so fast: a machine that is busy may make any single one slower."""
    return any(transfer_s(network, client, up=up) < limit_s for _ in range(20))


def test_a_link_is_as_slow_as_it_is_shaped(network: Network) -> None:
    shaped, other = network.clients
    network.shape(shaped, up_bps=1e6, down_bps=8e6)
    assert 8 * 125_000 / transfer_s(network, shaped, up=125_000) / 1e6 < 1.1
    assert 8 * 1_000_000 / transfer_s(network, shaped, down=1_000_000) / 8e6 < 1.1
    assert is_ever_below(1.4, network, shaped, up=125_000)  # of 1 s: not slower than it is to be
    assert is_ever_below(0.5, network, other, up=1_000_000)
    network.shape(shaped, up_bps=1e8, down_bps=1e8)
    assert is_ever_below(0.5, network, shaped, up=125_000)


def test_counters_see_every_byte_and_header_once(network: Network) -> None:
    client, other = network.clients
    machines = (client, other, network.server)
    before = [machine.counters() for machine in machines]
    transfer_s(network, client, up=1_000_000)
    (sent, none, received) = [machine.counters() for machine in machines]
    packets = sent.sent_packets - before[0].sent_packets
    assert packets >= 1_000_000 / 1_460
    num_bytes = sent.sent_bytes - before[0].sent_bytes
    assert 1_000_000 + 54 * packets <= num_bytes < 1_100_000
    # but for what the kernels say of themselves, and an acknowledgement that is under way
    assert abs(received.received_bytes - before[2].received_bytes - num_bytes) < NOISE_BYTES
    assert none.sent_bytes - before[1].sent_bytes < NOISE_BYTES


def test_nothing_is_left(network: Network) -> None:
    assert network.server.name in namespaces()
    sleeper = network.clients[0].popen(["sleep", "60"])
    network.__exit__(None, None, None)
    assert sleeper.wait(timeout=180) == -signal.SIGKILL
    assert str(os.getpid()) not in namespaces()


def test_what_a_killed_process_leaves_is_removed_by_the_next(network: Network) -> None:
    script = (
        "import os, subprocess\n"
        "from tests.faults.netns import Network\n"
        "made = Network(1).__enter__()\n"
        "sleeper = made.server.popen(['sleep', '60'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "print(made.server.name, sleeper.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    project = Path(__file__).parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", script], cwd=project, capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    name, pid = killed.stdout.split()
    assert Path(f"/proc/{pid}").exists()
    assert name in namespaces()
    netns.remove_leftovers()
    assert name not in namespaces()
    assert network.server.name in namespaces()  # its process lives
    state = Path(f"/proc/{pid}/status")
    assert not state.exists() or "zombie" in state.read_text(encoding="utf-8")


def test_where_namespaces_cannot_be_made_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netns.shutil, "which", lambda tool: None)
    monkeypatch.setattr(netns.os, "geteuid", lambda: 0)
    with pytest.raises(Unsupported, match="ip and tc not found; install iproute2"):
        Network(1).__enter__()
    monkeypatch.setattr(netns.os, "geteuid", lambda: 1000)
    with pytest.raises(Unsupported, match="need root"):
        Network(1).__enter__()
