"""Which HTTP proxy a connection goes through, if any; knows the environment, opens nothing.

gRPC takes proxies from the environment for every address, also for those of this machine and of the local network,
where a proxy cannot reach. Here proxies that are set for everything (https_proxy, http_proxy) serve host names only;
grpc_proxy, which concerns nothing else, is meant for this and serves all.
"""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed has it for some systems


@dataclass(frozen=True)
class Proxy:
    """`address` is HOST:PORT, without a password that may be in the environment variable."""

    address: str
    variable: str

    def __str__(self) -> str:
        return f"the proxy {self.address}, which the environment variable {self.variable} names"


def proxy_for(address: str, environment: Mapping[str, str] = os.environ) -> Proxy | None:
    """The proxy on the way to HOST:PORT; None if there is none.

    >>> proxy_for("example.org:7000", {"http_proxy": "http://me:secret@10.0.0.1:3128"})
    Proxy(address='10.0.0.1:3128', variable='http_proxy')
    >>> proxy_for("127.0.0.1:7000", {"http_proxy": "http://10.0.0.1:3128"})
    """
    host = address.rpartition(":")[0].strip("[]").lower()
    for variable in ("grpc_proxy", "https_proxy", "http_proxy"):  # in gRPC's order
        if value := environment.get(variable):
            break
    else:
        return None
    if variable != "grpc_proxy" and _is_near(host):
        return None
    excepted = environment.get("no_grpc_proxy") or environment.get("no_proxy") or ""
    if proxy_bypass_environment(host, {"no": excepted}):
        return None
    return Proxy(
        urlsplit(value if "//" in value else f"//{value}").netloc.rpartition("@")[2] or value, variable
    )


def _is_near(host: str) -> bool:
    """Whether it is given by address, or is this machine."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return True
