"""Network namespaces joined by shaped links, for tests: needs root and iproute2, changes nothing outside of them.

    server (10.97.0.1/24) ─ bridge ─┬─ veth ═ shaped both ways ═ client 1 (10.97.0.2)
                                    └─ veth ═ shaped both ways ═ client 2 (10.97.0.3)

The namespaces' names hold the number of the process that made them, so that what a killed one has left is found and
removed by the next. Shaping is `tbf`; latency and loss would need `netem`, which many kernels lack: see `proxy`.
"""

import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from unittest import SkipTest

_PREFIX = "splitcom-test"
_NETWORK = "10.97.0"
INTERFACE = "net0"
_BRIDGE = "bridge0"
_MTU_BYTES = 1_500
_PLAIN = ("addrgenmode", "none", "gso_max_segs", "1", "gso_max_size", str(_MTU_BYTES + 14))
"""Little traffic of IPv6's own, and packets as on a wire: with offload, a counter sees one header per 64 KiB."""
_NEWNET = 0x40000000  # of sched.h
_BURST_S = 0.02
_QUEUE_S = 0.2


class Unsupported(SkipTest):
    """Namespaces cannot be made here; says why. A test that does not catch it is skipped."""


@dataclass(frozen=True)
class Counters:
    """Bytes and packets of an interface, with Ethernet headers."""

    sent_bytes: int
    received_bytes: int
    sent_packets: int
    received_packets: int
    dropped_packets: int


class Namespace:
    """One machine of the network."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process in it; arguments as of `subprocess.Popen`. The namespace's end kills it."""
        return subprocess.Popen(["ip", "netns", "exec", self.name, *command], **options)

    def counters(self) -> Counters:
        """What has passed its interface since it was made."""
        text = _ip("-netns", self.name, "-json", "-statistics", "link", "show", "dev", INTERFACE)
        (link,) = json.loads(text)
        sent, received = link["stats64"]["tx"], link["stats64"]["rx"]
        return Counters(
            sent_bytes=sent["bytes"],
            received_bytes=received["bytes"],
            sent_packets=sent["packets"],
            received_packets=received["packets"],
            dropped_packets=sent["dropped"] + received["dropped"],
        )


@contextmanager
def entered(name: str) -> Iterator[None]:
    """Have this thread, and those it starts meanwhile, be in a network namespace; their sockets stay there."""
    with Path("/proc/thread-self/ns/net").open() as outside, Path("/run/netns", name).open() as inside:
        _enter(inside.fileno())
        try:
            yield
        finally:
            _enter(outside.fileno())


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _NEWNET):
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace")


class Network:
    """A server and `num_clients` clients, each behind a link of its own.

    Attributes:
        server, clients: the namespaces.

    Raises:
        Unsupported: without root, iproute2, namespaces, veth, bridges or the tbf scheduler.
    """

    def __init__(self, num_clients: int) -> None:
        self._prefix = f"{_PREFIX}-{os.getpid()}"
        names = ["server", *(f"client{number}" for number in range(1, num_clients + 1))]
        self.server, *self.clients = (
            Namespace(f"{self._prefix}-{name}", f"{_NETWORK}.{host}") for host, name in enumerate(names, 1)
        )

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise Unsupported("network namespaces need root")
        if missing := [tool for tool in ("ip", "tc") if shutil.which(tool) is None]:
            raise Unsupported(f"{' and '.join(missing)} not found; install iproute2")
        remove_leftovers()
        try:
            self._build()
            self.shape(self.server, up_bps=1e9, down_bps=1e9)
        except subprocess.CalledProcessError as error:
            self._remove()
            raise Unsupported(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from error
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def shape(self, machine: Namespace, *, up_bps: float, down_bps: float) -> None:
        """Limit what a machine sends (`up_bps`) and gets (`down_bps`), in bits per second; may be called again."""
        _shape(machine.name, INTERFACE, up_bps)
        _shape(self._hub, self._port(machine), down_bps)

    @property
    def _hub(self) -> str:
        return f"{self._prefix}-hub"

    def _port(self, machine: Namespace) -> str:
        return "port" + machine.address.rpartition(".")[2]

    def _build(self) -> None:
        _ip("netns", "add", self._hub)
        _ip("-netns", self._hub, "link", "add", "name", _BRIDGE, "type", "bridge")
        _ip("-netns", self._hub, "link", "set", _BRIDGE, "addrgenmode", "none", "up")
        for machine in (self.server, *self.clients):
            port, inside = self._port(machine), ("-netns", machine.name)
            _ip("netns", "add", machine.name)
            peer = ("peer", "name", INTERFACE, "netns", machine.name)
            _ip("-netns", self._hub, "link", "add", "name", port, "type", "veth", *peer)
            _ip("-netns", self._hub, "link", "set", port, *_PLAIN)
            _ip("-netns", self._hub, "link", "set", port, "master", _BRIDGE, "up")
            _ip(*inside, "link", "set", INTERFACE, *_PLAIN)
            _ip(*inside, "address", "add", f"{machine.address}/24", "dev", INTERFACE)
            for interface in ("lo", INTERFACE):
                _ip(*inside, "link", "set", interface, "up")

    def _remove(self) -> None:
        for namespace in (self._hub, self.server.name, *(client.name for client in self.clients)):
            _delete(namespace)


def remove_leftovers() -> None:
    """Remove the namespaces of test processes that have ended without doing so, and what still runs in them."""
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0]
        if name.startswith(f"{_PREFIX}-") and not Path(f"/proc/{name.split('-')[2]}").exists():
            _delete(name)


def _delete(namespace: str) -> None:
    with suppress(subprocess.CalledProcessError):
        for pid in _ip("netns", "pids", namespace).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), 9)
        _ip("netns", "delete", namespace)


def _shape(namespace: str, interface: str, rate_bps: float) -> None:
    """A token bucket of 20 ms and a queue of 200 ms, but of at least a few packets."""
    burst_bytes = max(2 * _MTU_BYTES, int(rate_bps * _BURST_S / 8))
    queue_bytes = max(8 * _MTU_BYTES, int(rate_bps * _QUEUE_S / 8))
    limits = ("rate", f"{rate_bps:.0f}bit", "burst", f"{burst_bytes}b", "limit", f"{queue_bytes}b")
    _run("tc", "-netns", namespace, "qdisc", "replace", "dev", interface, "root", "tbf", *limits)


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=180).stdout
