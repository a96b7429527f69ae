"""How a client reaches the server, how long it tries, and why it fails where trying again is of no use."""

import logging
import socket
import ssl
import tempfile
from time import monotonic, sleep

import grpc

from splitcom.errors import RefusedError, TransportError
from splitcom.foreign import PEER_CHARACTERS, visible
from splitcom.transports.address import checked
from splitcom.transports.grpc import Timeouts, channel_options
from splitcom.transports.proxy import proxy_for
from splitcom.transports.tls import Identity

_LOG = logging.getLogger(__name__)


class Dialler:
    """How the server is reached, and when to stop trying."""

    def __init__(self, address: str, identity: Identity, timeouts: Timeouts) -> None:
        self.identity = identity
        self.timeouts = timeouts
        self.succeeded = False
        self._address = checked(address)
        self._proxy = proxy_for(address)
        self._lost_since: float | None = None
        self._attempts = 0

    def channel(self) -> grpc.Channel:
        """A new channel, with a connection of its own."""
        credentials = grpc.ssl_channel_credentials(
            self.identity.authority, self.identity.key, self.identity.certificate
        )
        options = (
            *channel_options(self.timeouts),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", int(self._proxy is not None)),
        )
        return grpc.secure_channel(self._address, credentials, options)

    def note_success(self) -> None:
        """There is a connection."""
        if self._attempts:
            _LOG.info("connected to %s again", self._address)
        self.succeeded = True
        self._attempts, self._lost_since = 0, None

    def wait_after(self, error: grpc.RpcError | None) -> None:
        """Pause before the next attempt; raises where it would be of no use, or where patience is at an end."""
        code = error.code() if isinstance(error, grpc.Call) else None
        details = (error.details() if isinstance(error, grpc.Call) else None) or "the connection was closed"
        details = visible(details, PEER_CHARACTERS)
        if code is grpc.StatusCode.PERMISSION_DENIED:
            raise RefusedError(f"the server has refused {self.identity.name}: {details}") from error
        if code is grpc.StatusCode.UNIMPLEMENTED:
            raise RefusedError(f"{self._address} is no SplitCom server of this release: {details}") from error
        if self._proxy is not None:
            details = (
                f"{details}; the way there is through {self._proxy}: unset it, or name the host in no_proxy"
            )
        elif not self.succeeded and (reason := diagnose(self._address, self.identity)) is not None:
            raise RefusedError(f"{self._address}: {reason}") from error
        now = monotonic()
        self._lost_since = self._lost_since or now
        if now - self._lost_since > self.timeouts.give_up_s:
            raise TransportError(
                f"{self._address}: not reached for {now - self._lost_since:.0f} s; the last attempt ended with: "
                f"{details}"
            ) from error
        if not self._attempts:
            _LOG.warning("%s is not reached (%s); trying again", self._address, details)
        pause = min(self.timeouts.pause_s / 20 * 2**self._attempts, self.timeouts.pause_s)
        self._attempts = min(self._attempts + 1, 10)
        sleep(pause)


def diagnose(address: str, identity: Identity, timeout_s: float = 5.0) -> str | None:
    """Why TLS fails with the server, which gRPC does not say; None if that is not the trouble."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cadata=identity.authority.decode())
    context.set_alpn_protocols(["h2"])
    with tempfile.NamedTemporaryFile() as file:  # readable by its owner alone
        file.write(identity.certificate + identity.key)
        file.flush()
        context.load_cert_chain(file.name)
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host.strip("[]")) as connection,
        ):
            greeting = connection.recv(1)
    except ssl.SSLCertVerificationError as error:
        return (
            f"the server's certificate is not accepted: {error.verify_message}; it must be of the same authority as "
            f"the bundle of {identity.name}, and name the host as it is given here"
        )
    except ssl.SSLError as error:
        return f"no TLS connection: {error.reason or error}; is this the port of a SplitCom server?"
    except (OSError, ValueError):
        return None
    if greeting:
        return None
    return (
        f"the server does not accept the certificate of {identity.name}, valid until {identity.expires:%Y-%m-%d}: it "
        "is of another authority, or expired or not yet valid by the server's clock"
    )
