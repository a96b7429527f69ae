"""What a client asks before a run, and large messages, get through connections that are cut again and again."""

import pytest

from splitcom.transports import tls
from splitcom.transports.endpoint import Endpoint
from splitcom.transports.frames_pb2 import Description
from splitcom.transports.grpc import Timeouts
from splitcom.transports.grpc_calls import ServerCalls
from splitcom.transports.grpc_server import GrpcServer

from ..integration.parties import make_authority
from .proxy import Proxy

HASTY = Timeouts(connect_s=5.0, pause_s=0.2, give_up_s=10.0)


def test_a_front_larger_than_any_connection_carries_is_fetched(tmp_path):
    authority, folder = make_authority(tmp_path / "authority", 1), tmp_path / "front"
    folder.mkdir()
    contents = {
        "config.json": b"{}",
        "model.safetensors": bytes(range(256)) * (1 << 12),
        "tokenizer.json": b"",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    identity = tls.load_identity(authority / "clients" / "client-0.pem")
    with (
        GrpcServer(
            "127.0.0.1:0",
            tls.load_server_identity(authority),
            tls.Revocations(authority),
            Description(protocol_version=1),
            max_clients=1,
            front=lambda: folder,
        ) as server,
        Proxy(("127.0.0.1", server.port)) as proxy,
        ServerCalls(f"127.0.0.1:{proxy.address[1]}", identity, HASTY) as calls,
    ):
        proxy.reset_after_bytes = 300_000
        assert calls.measure().up_bps > 0
        fetched = calls.fetch_front(tmp_path / "cache" / "it")
        assert {path.name: path.read_bytes() for path in fetched.iterdir()} == contents
        assert proxy.counts.resets >= 3


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
