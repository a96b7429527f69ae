"""Addresses of servers, checked before gRPC makes something else of them; knows no connection."""

from splitcom.errors import TransportError

_LAST_PORT = 65_535


def checked(address: str) -> str:
    """The address, if it is HOST:PORT; raises TransportError if not.

    gRPC waits long for a host that has no port, and takes another port in place of one that is too large.

    >>> checked("train.example.org:7443"), checked("[::1]:0")
    ('train.example.org:7443', '[::1]:0')
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > _LAST_PORT:
        raise TransportError(
            f"{address}: expected HOST:PORT with a port up to {_LAST_PORT}, such as 192.0.2.1:7443"
        )
    return address
