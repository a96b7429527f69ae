"""What a client asks before a run, and large messages, get through connections that are cut again and again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from splitcom.errors import RemoteProtocolError
from splitcom.transports import tls
from splitcom.transports.endpoint import Endpoint
from splitcom.transports.frames_pb2 import Description
from splitcom.transports.grpc import TRANSPORT_VERSION, Timeouts
from splitcom.transports.grpc_calls import ServerCalls
from splitcom.transports.grpc_server import GrpcServer

from ..integration.parties import make_authority
from .proxy import Proxy

HASTY = Timeouts(connect_s=60.0, pause_s=0.2, give_up_s=60.0)


CONTENTS = {
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * (1 << 12),
    "tokenizer.json": b"",
}


def accept(folder: Path, num_bytes: int) -> None:
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert num_bytes == len(CONTENTS["model.safetensors"])


@contextmanager
def serving(authority: Path, folder: Path, contents: dict[str, bytes] = CONTENTS) -> Iterator[GrpcServer]:
    """A server that sends these files, whatever they are."""
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    with GrpcServer(
        "127.0.0.1:0",
        tls.load_server_identity(authority),
        tls.Revocations(authority),
        lambda name: Description(protocol_version=TRANSPORT_VERSION),
        max_clients=1,
        front=lambda name: folder,
    ) as server:
        yield server


def calling(authority: Path, port: int) -> ServerCalls:
    identity = tls.load_identity(authority / "clients" / "client-0.pem")
    return ServerCalls(f"127.0.0.1:{port}", identity, HASTY)


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_front_larger_than_any_connection_carries_is_fetched(tmp_path):
    authority = make_authority(tmp_path / "authority", 1)
    with (
        serving(authority, tmp_path / "front") as server,
        Proxy(("127.0.0.1", server.port)) as proxy,
        calling(authority, proxy.address[1]) as calls,
    ):
        proxy.reset_after_bytes = 300_000
        assert calls.measure(thorough=True).up_bps > 0
        fetched = calls.fetch_front(tmp_path / "cache", 1 << 21, accept)
        assert contents_of(fetched) == CONTENTS
        assert proxy.counts.resets >= 3


def test_what_a_hostile_server_has_sent_is_never_taken_for_an_honest_ones(tmp_path, caplog):
    authority, cache = make_authority(tmp_path / "authority", 1), tmp_path / "cache"
    poison = CONTENTS | {"model.safetensors": CONTENTS["model.safetensors"][::-1]}
    with (
        serving(authority, tmp_path / "hostile", poison) as hostile,
        calling(authority, hostile.port) as calls,
    ):
        assert contents_of(calls.fetch_front(cache, 1 << 21, accept)) == poison
        with pytest.raises(RemoteProtocolError, match=r"a front of 1\.0 MB, and at most 0\.5 MB are taken"):
            calls.fetch_front(cache, 1 << 19, accept)
    with (
        serving(authority, tmp_path / "honest") as honest,
        calling(authority, honest.port) as calls,
    ):
        fetched = calls.fetch_front(cache, 1 << 21, accept)
        assert contents_of(fetched) == CONTENTS
        with (fetched / "model.safetensors").open("r+b") as file:
            file.write(b"poison")
        assert contents_of(calls.fetch_front(cache, 1 << 21, accept)) == CONTENTS
        assert "not what the server lists" in caplog.text
        (tmp_path / "honest" / "config.json").write_bytes(b"[]")  # other than was listed
        with pytest.raises(RemoteProtocolError, match=r"config\.json is not what it has listed"):
            calls.fetch_front(tmp_path / "new cache", 1 << 21, accept)
        assert not list((tmp_path / "new cache").iterdir())


def test_a_client_that_joins_hardly_sends_anything_to_know_its_link(tmp_path):
    authority = make_authority(tmp_path / "authority", 1)
    with (
        serving(authority, tmp_path / "front") as server,
        Proxy(("127.0.0.1", server.port)) as proxy,
        calling(authority, proxy.address[1]) as calls,
    ):
        calls.describe()
        proxy.reset_after_bytes = 32_000  # both ways, with TLS's handshake and the description
        calls.measure()
        assert proxy.counts.resets == 0


@pytest.mark.parametrize("carried_bytes", [20_000, 100_000])
def test_a_message_larger_than_any_connection_carries_arrives(carried_bytes):
    message = bytes(range(256)) * (1 << 13)
    sender, receiver = Endpoint(), Endpoint()
    sender.send(message)
    arrived = None
    for _ in range(len(message) // 10_000):
        positions = sender.position(), receiver.position()
        sender.resume(positions[1])
        receiver.resume(positions[0])
        left_bytes = carried_bytes
        while (
            arrived is None and (left_bytes := left_bytes - len((parcel := sender.next_parcel()).data)) >= 0
        ):
            arrived = receiver.receive(parcel)
    assert arrived == message
