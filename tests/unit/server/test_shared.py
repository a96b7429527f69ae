"""The shared adapter and its versions: what a client is sent to get to the present one, whatever it holds."""

from types import SimpleNamespace

import pytest
import torch

from splitcom.aggregation import Update
from splitcom.config import Config
from splitcom.errors import RemoteProtocolError
from splitcom.protocol.adapters import unpack_packets
from splitcom.protocol.messages_pb2 import RoundStart
from splitcom.server.shared import SharedAdapter
from splitcom.state import State
from splitcom.training.adapters import AdapterCodec, digest_of, uncompressed_adapter_size

DELTA = "delta > topk(0.1) > int8 > zstd"


def config(codec, **changes):
    flows = {"flows.adapter_up.codec": codec, "flows.adapter_down.codec": codec}
    return Config().override(flows | changes)


def initial():
    generator = torch.Generator().manual_seed(0)
    return {"b": torch.randn(64, 32, generator=generator), "a": torch.randn(7, generator=generator)}


def updates(shared, seed, version=None):
    """What a client makes of the present version."""
    generator = torch.Generator().manual_seed(seed)
    adapter = {n: t + 0.01 * torch.randn(t.shape, generator=generator) for n, t in shared.tensors.items()}
    return [Update(adapter, 10, shared.version if version is None else version)]


class Client:
    """As much of one as follows the shared adapter."""

    def __init__(self, codec):
        self.adapter_version = 0  # as the server knows it
        self._codec = AdapterCodec(codec)
        self.tensors = {name: torch.zeros_like(tensor) for name, tensor in initial().items()}

    def take(self, shared):
        """Returns the bytes that have come, and checks what has become of them."""
        data = shared.offer("client", self, RoundStart()).adapter
        if data:
            packets, is_exact = unpack_packets(data)
            for packet in packets:
                codec = AdapterCodec("none") if is_exact else self._codec
                self.tensors = codec.decode(packet, self.tensors)
        assert self.adapter_version == shared.version
        assert all(torch.equal(self.tensors[name], shared.tensors[name]) for name in shared.tensors)
        return data


@pytest.mark.parametrize("codec", ["fp16", "int8", "none", DELTA, "temporal(0.99) > delta > int4"])
def test_whatever_a_client_holds_it_gets_to_the_present_version_to_the_bit(codec):
    shared = SharedAdapter(initial(), config(codec), set)
    clients = {every: Client(codec) for every in (1, 2, 5)}
    for version in range(1, 12):
        for every, client in clients.items():
            if version % every == 0:
                client.take(shared)
                assert client.take(shared) == b""  # it holds that
        shared.merge(updates(shared, version))
    assert shared.version == 12


def test_deltas_are_far_smaller_and_a_chain_is_sent_as_long_as_it_is_smaller_than_the_whole():
    shared, client, behind = SharedAdapter(initial(), config(DELTA), set), Client(DELTA), Client(DELTA)
    exact = len(client.take(shared))
    assert exact > 2048 * 4
    behind.take(shared)
    shared.merge(updates(shared, 1))
    one = len(client.take(shared))
    assert one < uncompressed_adapter_size(shared.tensors) / 4
    sizes = []
    for seed in range(2, 60):
        late = Client(DELTA)
        late.adapter_version, late.tensors = behind.adapter_version, behind.tensors
        sizes.append(len(late.take(shared)))
        shared.merge(updates(shared, seed))
    assert max(sizes) <= exact and sizes[0] < 2 * one
    assert sizes[-1] == exact  # too many in between
    assert shared.take_uncompressed("client")["adapter_down"] == (2 + 1 + len(sizes)) * (
        1 + uncompressed_adapter_size(shared.tensors)
    )


@pytest.mark.parametrize("codec", ["fp16", DELTA])
def test_what_a_client_has_drawn_itself_is_not_sent_but_counted_as_what_fp16_would_send(codec):
    shared, early, late = SharedAdapter(initial(), config(codec), set), Client(codec), Client(codec)
    whole = 1 + uncompressed_adapter_size(shared.tensors)
    assert shared.held_by(digest_of(initial() | {"a": torch.zeros(7)})) == 0
    for client in (early, late):
        client.tensors = initial()
        client.adapter_version = shared.held_by(digest_of(initial()))
    first = len(early.take(shared))
    assert first == (whole if codec == "fp16" else 0)
    assert shared.take_uncompressed("client")["adapter_down"] == whole
    for seed in range(2):
        shared.merge(updates(shared, seed))
        early.take(shared)
    shared.take_uncompressed("client")
    assert len(late.take(shared)) < whole / 2 or codec == "fp16"  # the two packets in between
    assert shared.take_uncompressed("client")["adapter_down"] == whole


def test_an_update_is_read_with_the_version_it_began_from():
    in_use = {1}
    shared = SharedAdapter(initial(), config(DELTA), lambda: in_use)
    began = shared.tensors
    trained = updates(shared, 9)[0].adapter
    packet, expected = AdapterCodec(DELTA).encode(trained, began)
    for seed in range(3):
        shared.merge(updates(shared, seed))
    read = shared.read("client", packet, 1)
    assert all(torch.equal(read[name], expected[name]) for name in expected)
    assert shared.take_uncompressed("client") == {"adapter_up": uncompressed_adapter_size(began)}
    in_use.clear()
    shared.merge(updates(shared, 5))
    with pytest.raises(RemoteProtocolError, match="builds on version 1, which is not held"):
        shared.read("client", packet, 1)


@pytest.mark.parametrize("codec", ["fp16", "int8", DELTA])
@pytest.mark.parametrize("aggregator", ["fedavg", "fedadam"])
def test_a_state_goes_on_to_the_same_bytes(codec, aggregator):
    settings = config(codec, **{"federation.aggregator": aggregator})
    straight = SharedAdapter(initial(), settings, lambda: {1})
    client = Client(codec)
    client.take(straight)
    for seed in range(3):
        straight.merge(updates(straight, seed))
    state = straight.state()
    resumed = SharedAdapter(initial(), settings, lambda: {1})
    resumed.load_state(State({n: t.clone() for n, t in state.tensors.items()}, dict(state.scalars)))
    held = SimpleNamespace(adapter_version=1)
    assert (
        straight.offer("x", held, RoundStart()).adapter
        == resumed.offer("x", SimpleNamespace(adapter_version=1), RoundStart()).adapter
    )
    for shared in (straight, resumed):
        shared.merge(updates(shared, 7))
    for version in (0, 1, 4):
        payloads = [
            shared.offer("x", SimpleNamespace(adapter_version=version), RoundStart()).adapter
            for shared in (straight, resumed)
        ]
        assert payloads[0] == payloads[1]
    packet, _ = AdapterCodec(codec).encode(initial(), initial())
    first, second = straight.read("x", packet, 1), resumed.read("x", packet, 1)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fronts_that_do_not_learn_send_nothing():
    shared = SharedAdapter({}, config("fp16"), set)
    shared.merge([Update({}, 10, 1)])
    assert shared.offer("client", SimpleNamespace(adapter_version=0), RoundStart()).adapter == b""
    assert shared.version == 2 and shared.take_uncompressed("client") == {}
    again = SharedAdapter({}, config("fp16"), set)
    again.load_state(shared.state())
    assert again.version == 2


@pytest.mark.parametrize("codec", ["fp16", "int8", DELTA, "temporal(0.99) > delta > int4"])
def test_others_that_are_offered_for_a_while_arrive_exactly_and_nothing_builds_on_them(codec):
    shared, client, late = SharedAdapter(initial(), config(codec), set), Client(codec), Client(codec)
    for version in range(1, 4):
        client.take(shared)
        shared.merge(updates(shared, version))
    client.take(shared)
    late.take(shared)
    last = {name: tensor.clone() for name, tensor in shared.tensors.items()}
    other = {name: torch.full(tensor.shape, 1 / 3) for name, tensor in last.items()}
    with shared.replaced(other):
        client.take(shared)
        assert all(torch.equal(client.tensors[name], other[name]) for name in other)
    assert all(torch.equal(shared.tensors[name], last[name]) for name in last)
    client.take(shared)
    late.take(shared)  # it holds what is again the present one, as an older version
    shared.merge(updates(shared, 9))
    client.take(shared)
    late.take(shared)
