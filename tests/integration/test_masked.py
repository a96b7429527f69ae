"""Adapters under masks: the plain run's adapter, clients that drop out at every stage, over the network too."""

import pytest
import torch
from safetensors.torch import load_file

from splitcom.client.client import Client
from splitcom.client.masking import Masking
from splitcom.errors import ConfigError
from splitcom.methods.run import train
from splitcom.protocol.messages_pb2 import MaskKeys, MaskOpened, MaskShares, Message
from splitcom.server.masked import MaskedSum
from splitcom.server.shared import SharedAdapter

from .parties import PATIENCE_S, Deployment, fork_server, make_authority

PLAIN = {
    "flows.adapter_up.codec": "none",
    "flows.adapter_down.codec": "none",
    "federation.max_update_ratio": None,
    "training.rounds": 1,
}
SECURE = {"federation.secure_aggregation": 0.6}
WAYS = {
    "standard": {},
    "u-shape": {"model.tail_blocks": 1, "federation.aggregator": "fedadam(lr=0.01)"},
    "whole": {"method": "fedlora", "federation.max_weight_ratio": None},
}


@pytest.fixture(scope="module", autouse=True)
def shares():
    pytest.importorskip("Crypto")


def adapter_of(run):
    return load_file(run.adapter / "adapter_model.safetensors")


def assert_same(one, other, apart=2e-6):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=apart)


@pytest.mark.parametrize(
    "way", ["standard", *(pytest.param(way, marks=pytest.mark.slow) for way in ("u-shape", "whole"))]
)
def test_the_adapter_is_that_of_the_plain_run(tiny_config, tmp_path, way):
    plain = tiny_config.override(PLAIN | WAYS[way])

    runs = [train(plain, tmp_path / "plain"), train(plain.override(SECURE), tmp_path / "secure")]

    assert_same(*map(adapter_of, runs), apart=2e-4 if way == "u-shape" else 2e-6)
    assert runs[0].result["participation"] == runs[1].result["participation"]


LAST = "client-2"
NOTHING = {
    "start": Message(mask_keys=MaskKeys()),
    "share": Message(mask_shares=MaskShares()),
    "open": Message(mask_opened=MaskOpened()),
}


@pytest.mark.parametrize("stage", ["start", "share", "masked", "open"])
def test_a_client_that_drops_out_takes_its_own_update_with_it_and_nobody_else_s(
    tiny_config, tmp_path, monkeypatch, stage
):
    """One that sends nothing of use at a stage is refused there, as one that is gone is left out."""
    made, init, merge, sums = Client._made, Client.__init__, SharedAdapter.merge, []

    def named(self, name, *content, **named):
        init(self, name, *content, **named)
        if name == LAST and stage in NOTHING:
            monkeypatch.setattr(self._masking, stage, lambda *_: NOTHING[stage])

    def dropped(self, start, weight):
        updates[self.name] = {key: tensor.clone() for key, tensor in self._trainer.adapter().items()}, weight
        return made(self, start, weight) if stage != "masked" or self.name != LAST else b"nothing"

    def noted(self, found):
        sums.extend(found)
        merge(self, found)

    updates = {}
    monkeypatch.setattr(Client, "__init__", named)
    monkeypatch.setattr(Client, "_made", dropped)
    monkeypatch.setattr(SharedAdapter, "merge", noted)

    run = train(tiny_config.override(PLAIN | SECURE), tmp_path / "run")

    there = [own for name, own in updates.items() if stage == "open" or name != LAST]
    (update,) = sums
    weight = sum(weight for _, weight in there)
    assert len(there) == (3 if stage == "open" else 2) and update.num_labels == weight
    mean = {name: sum(own[name].double() * weight for own, weight in there) / weight for name in there[0][0]}
    assert_same({name: update.adapter[name] for name in mean}, mean, apart=1e-6)
    assert run.result["clients"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["start", "share", "masked", "open"])
def test_a_process_that_dies_at_a_stage_is_left_out_as_one_that_is_refused(
    tiny_config, tmp_path, monkeypatch, stage
):
    """Killed as it begins to answer; what the others make of the round are the bits of one process."""
    patience = {"federation.drop_after_s": 1000.0, "federation.min_clients": 2}
    config = tiny_config.override(PLAIN | SECURE | WAYS["whole"] | patience)
    network = Deployment(fork_server(), make_authority(tmp_path / "authority"), config, tmp_path)
    network.start_server(clock=network.clock)
    clients = network.clients("--model", config.model.source)
    for client in clients[:2]:
        client.start()
    clients[2].start(trap={"code": rf"client/masking\.py:{stage}$", "line": 1, "delay_s": 0})
    clients[2].process.join(PATIENCE_S)
    assert clients[2].process.exitcode == -9, clients[2].log
    network.pass_time(2000, LAST)
    for party in (*clients[:2], network.server):
        party.end()

    init = Client.__init__

    def named(self, name, *content, **named):
        init(self, name, *content, **named)
        if name == LAST:
            monkeypatch.setattr(self._masking, stage, lambda *_: NOTHING.get(stage, b"nothing"))

    monkeypatch.setattr(Client, "__init__", named)
    expected = adapter_of(train(config, tmp_path / "in-process"))
    theirs = load_file(network.out / "adapter" / "adapter_model.safetensors")
    assert expected.keys() == theirs.keys()
    assert all(torch.equal(expected[name], theirs[name]) for name in expected)


def test_a_round_of_too_few_is_not_merged(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(Masking, "open", lambda *_: NOTHING["open"])
    merged = []
    monkeypatch.setattr(SharedAdapter, "merge", lambda self, found: merged.append(found))

    with pytest.raises(Exception, match=r"no client has anything to say|refused"):
        train(tiny_config.override(PLAIN | SECURE), tmp_path / "run")

    assert not merged


def test_what_cannot_be_summed_under_masks_is_refused_with_the_reason(tiny_config):
    for changes, reason in (
        ({"federation.max_update_ratio": 5.0}, "max_update_ratio = false"),
        ({"federation.aggregator": "median"}, "looks at single updates"),
        ({"federation.aggregator": "norm_clip(1)"}, "client.clip_update"),
        ({"federation.aggregator": "dp_fedavg(1, noise=1)"}, "looks at single updates"),
        ({"flows.adapter_up.codec": "delta > topk(0.1) > int8"}, "adapter_up.codec"),
        ({"federation.clients": 2}, "at least 3 are needed"),
        ({"federation.deadline_s": 3.0}, "deadline_s"),
        ({"method": "fedlora", "training.split": False}, "max_weight_ratio"),
        ({"federation.secure_aggregation": 0.5}, "must be above 0.5"),
    ):
        with pytest.raises(ConfigError, match=reason):
            tiny_config.override(PLAIN | SECURE | changes)
    private = {"federation.aggregator": "dp_fedavg(1, noise=1, where=clients)"}
    assert tiny_config.override(PLAIN | SECURE | private).federation.secure_aggregation == 0.6


def test_masks_over_a_network_give_the_bits_of_one_process(tiny_config, tmp_path):
    config = tiny_config.override(PLAIN | SECURE | WAYS["whole"])
    expected = train(config, tmp_path / "in-process")
    network = Deployment(
        fork_server(), make_authority(tmp_path / "authority"), config, tmp_path
    ).start_server()
    parties = [client.start() for client in network.clients("--model", config.model.source)]
    for party in (*parties, network.server):
        party.end()
    network.assert_same_run(expected)


def test_the_server_s_part_is_a_sum_alone(tiny_config, tmp_path, monkeypatch):
    """What is read of one client's update has nothing to do with it."""
    seen, end = [], MaskedSum.end

    def noted(self, updates):
        seen.extend(update.adapter["masked"].double().mean() for update in updates.values())
        assert all(update.adapter.keys() == {"masked"} for update in updates.values())
        return end(self, updates)

    monkeypatch.setattr(MaskedSum, "end", noted)
    train(tiny_config.override(PLAIN | SECURE), tmp_path / "run")

    assert len(seen) == 3 and all(abs(float(mean) - 127.5) < 2 for mean in seen)
