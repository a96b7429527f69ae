"""The certificates of benchmarks over a network."""

from collections.abc import Iterable
from pathlib import Path

from splitcom.transports import tls


def make_authority(folder: Path, names: Iterable[str]) -> Path:
    """An authority that has issued a server's certificate, and these clients'."""
    tls.create_authority(folder)
    tls.issue_server(folder, ["localhost"])
    for name in names:
        tls.issue_client(folder, name)
    return folder
