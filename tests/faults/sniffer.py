"""What crosses an interface by layer: headers of Ethernet, IP and TCP, acknowledgements, TLS records, their content.

Reads packets as they pass (Linux, root) and puts the streams of each TCP connection together to find records' heads.
"""

import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Self

_ALL_PROTOCOLS = 3
_IPV4, _TCP = b"\x08\x00", 6
_ETHERNET_BYTES = 14
_RECORD_HEAD_BYTES = 5
_APPLICATION_DATA = 23
_SEALED_BYTES = 17  # the tag and the true type, in TLS 1.3
_BUFFER_BYTES = 1 << 26
_SYN = 2


@dataclass
class Layers:
    """Bytes by what they are for; they add up to `total_bytes`."""

    total_bytes: int = 0
    packets: int = 0
    header_bytes: int = 0  # Ethernet, IP and TCP, of packets with data
    bare_bytes: int = 0  # whole packets without data: acknowledgements, beginnings and ends
    repeated_bytes: int = 0  # data that TCP has sent again
    tls_bytes: int = 0  # records' heads, tags, and what is no application data
    content_bytes: int = 0  # what TLS carries

    def __add__(self, other: "Layers") -> "Layers":
        return Layers(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


class _Stream:
    """One direction of a connection."""

    def __init__(self, layers: Layers, first_sequence: int) -> None:
        self._layers = layers
        self._first = first_sequence
        self._position = 0
        self._early: dict[int, bytes] = {}
        self._head = b""
        self._left_bytes = 0

    def take(self, sequence: int, data: bytes) -> None:
        offset = (sequence - self._first) % (1 << 32)
        if offset >= 1 << 31:  # before the first, as a keep-alive is
            offset -= 1 << 32
        if offset > self._position:
            self._layers.repeated_bytes += len(self._early.get(offset, b""))
            self._early[offset] = data
            return
        known = min(self._position - offset, len(data))
        self._layers.repeated_bytes += known
        self._read(data[known:])
        while (following := min(self._early, default=self._position + 1)) <= self._position:
            self.take(self._first + following, self._early.pop(following))

    def _read(self, data: bytes) -> None:
        self._position += len(data)
        while data:
            if self._left_bytes:
                taken = min(self._left_bytes, len(data))
                self._left_bytes -= taken
                data = data[taken:]
                continue
            missing = _RECORD_HEAD_BYTES - len(self._head)
            self._head, data = self._head + data[:missing], data[missing:]
            if len(self._head) == _RECORD_HEAD_BYTES:
                size = self._left_bytes = int.from_bytes(self._head[3:])
                content = size - _SEALED_BYTES if self._head[0] == _APPLICATION_DATA else 0
                self._layers.content_bytes += content
                self._layers.tls_bytes += _RECORD_HEAD_BYTES + size - content
                self._head = b""


class Sniffer:
    """Counts from its beginning to its end, as a context manager; made in the namespace of the interface.

    Attributes:
        connections: TCP connections in the order of their beginning, both directions of each together.
        others: what belongs to none of them, such as ARP.
    """

    def __init__(self, interface: str) -> None:
        self.others = Layers()
        self._connections: dict[frozenset[tuple[bytes, bytes]], Layers] = {}
        self._streams: dict[tuple[bytes, bytes, bytes, bytes], _Stream] = {}
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
        self._socket.setsockopt(
            socket.SOL_SOCKET, 33, _BUFFER_BYTES
        )  # SO_RCVBUFFORCE, which Python does not name
        self._socket.bind((interface, _ALL_PROTOCOLS))
        self._socket.settimeout(0.2)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def connections(self) -> list[Layers]:
        return list(self._connections.values())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while True:
            try:
                packet = self._socket.recv(1 << 16)
            except TimeoutError:
                if self._ending.is_set():
                    return
                continue
            self._take(packet)

    def _take(self, packet: bytes) -> None:
        ip = packet[_ETHERNET_BYTES:]
        if packet[12:14] != _IPV4 or ip[9] != _TCP:
            self.others += Layers(total_bytes=len(packet), packets=1, bare_bytes=len(packet))
            return
        end = int.from_bytes(ip[2:4])  # short packets may be padded
        tcp = ip[4 * (ip[0] & 15) : end]
        data = tcp[4 * (tcp[12] >> 4) :]
        sender, receiver = (ip[12:16], tcp[:2]), (ip[16:20], tcp[2:4])
        layers = self._connections.setdefault(frozenset((sender, receiver)), Layers())
        layers.total_bytes += len(packet)
        layers.packets += 1
        sequence, flags = int.from_bytes(tcp[4:8]), tcp[13]
        if flags & _SYN:
            self._streams[*sender, *receiver] = _Stream(layers, sequence + 1)
        if not data:
            layers.bare_bytes += len(packet)
            return
        layers.header_bytes += len(packet) - len(data)
        if (stream := self._streams.get((*sender, *receiver))) is not None:
            stream.take(sequence, data)


def total(layers: Iterable[Layers]) -> Layers:
    return sum(layers, Layers())
