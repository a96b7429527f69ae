"""Addresses that gRPC would wait for, or take for another one."""

import pytest

from splitcom.errors import TransportError
from splitcom.transports.address import checked


@pytest.mark.parametrize(
    "address", ["train.example.org", "7443", ":7443", "host:", "host:grpc", "127.0.0.1:99999"]
)
def test_what_is_no_host_and_port_is_refused(address):
    with pytest.raises(TransportError, match="expected HOST:PORT with a port up to 65535"):
        checked(address)
