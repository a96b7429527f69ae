"""What both ends of a network connection share: the service, its limits and timeouts.

The service has one conversation per client, a bidirectional stream of frames (see endpoint.py), and three small calls:
what the run is (Describe), the front's tensors (Front), and how fast the link is (Probe). All of them go over mutual
TLS, and the client is who its certificate says.

Which connection of a client counts is decided by the conversation's identifier, 16 random bytes that the client draws
anew whenever it begins with a hello:

    same identifier          the client is back: this connection takes over, the older one is ended
    another, none connected  the client has begun anew (its program was restarted)
    another, one connected   a second session of the same name: refused, the first goes on
    unknown, but resuming    the server has begun anew: the client is told to
"""

from collections.abc import Sequence
from dataclasses import dataclass

from splitcom.transports.endpoint import MAX_CHUNK_BYTES
from splitcom.transports.frames_pb2 import Refused
from splitcom.transports.framing import MAX_FRAME_BYTES

SERVICE = "splitcom.transport.v1.SplitCom"
TRANSPORT_VERSION = 2  # since which a listing of the front has hashes
PROBE_BYTES = 1 << 18
PIECE_BYTES = 1 << 16  # of a file; what a connection that is cut early has carried is not lost
_STREAMS_OF_A_CONNECTION = 8  # a client has one at a time


@dataclass(frozen=True)
class Timeouts:
    """The times that a connection depends on, in seconds. `for_link` derives a client's from the link."""

    connect_s: float = 10.0  # until a connection stands
    probe_s: float = 10.0  # that a connection may be silent before it is probed
    silence_s: float = 20.0  # without an answer to a probe, or to what was sent: the connection is lost
    pause_s: float = 5.0  # between two attempts to connect, at most; the first pause is a twentieth of it
    give_up_s: float = 600.0  # of attempts in vain
    notice_s: float = 60.0  # that a server waits for a client before its log says so, and again after as long

    def for_link(self, round_trip_s: float, bits_per_s: float, window_bytes: int) -> "Timeouts":
        """These, longer where the link is slow: an answer to a probe waits for what has been sent before.

        >>> Timeouts().for_link(0.02, 100e6, 1 << 22) == Timeouts()
        True
        >>> Timeouts().for_link(0.2, 1e6, 1 << 22).silence_s  # 34 s of data may be under way
        136.0
        """
        under_way_s = round_trip_s + 8 * window_bytes / bits_per_s
        scale = max(1.0, round(under_way_s / 5, 1))
        return Timeouts(
            connect_s=self.connect_s * scale,
            probe_s=self.probe_s * scale,
            silence_s=self.silence_s * scale,
            pause_s=self.pause_s * scale,
            give_up_s=self.give_up_s,
            notice_s=self.notice_s,
        )


# A server cannot know each client's link, and a client that is back takes over what is half dead anyway.
SERVER_TIMEOUTS = Timeouts(silence_s=60.0)


def channel_options(timeouts: Timeouts) -> Sequence[tuple[str, int]]:
    """The options of gRPC that client and server set alike: keep-alive, and how large a frame may be."""
    frame_bytes = MAX_CHUNK_BYTES + MAX_FRAME_BYTES
    return (
        ("grpc.max_send_message_length", frame_bytes),
        ("grpc.max_receive_message_length", frame_bytes),
        ("grpc.keepalive_time_ms", int(timeouts.probe_s * 1e3)),
        ("grpc.keepalive_timeout_ms", int(timeouts.silence_s * 1e3)),
        (
            "grpc.http2.ping_timeout_ms",
            int(timeouts.silence_s * 1e3),
        ),  # else a minute, whatever the line above
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.max_ping_strikes", 0),
    )


def server_options(timeouts: Timeouts) -> Sequence[tuple[str, int]]:
    """What a server adds, so that connections which come to nothing do not stay."""
    return (
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),
        ("grpc.server_handshake_timeout_ms", int(3e3 * timeouts.connect_s)),
        ("grpc.max_connection_idle_ms", int(1e3 * timeouts.silence_s)),
        ("grpc.max_concurrent_streams", _STREAMS_OF_A_CONNECTION),
    )


def code_name(code: Refused.Code) -> str:
    """A code of a refusal as text.

    >>> code_name(Refused.FULL)
    'FULL'
    """
    return str(Refused.Code.Name(code))
