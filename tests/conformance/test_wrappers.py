"""What holds of wrappers around a client's trainer: none changes a bit but those it is for."""

import pytest
import torch
from safetensors.torch import load_file

from splitcom.client.client import Client, Trainer
from splitcom.client.wrapper import ClipUpdate, Wrapper
from splitcom.methods.run import train
from splitcom.parties import build
from splitcom.server.observe import Observer

TIMES = {"links.step_s": 0.1, "links.server_step_s": 0.02}
WAYS = {
    "standard": {"flows.activation_up.codec": "temporal(0.9) > delta > int4 > zstd", "lora.dropout": 0.1},
    "u-shape": {"model.tail_blocks": 1},
    "whole": {"method": "fedlora"},
    "asynchronous": TIMES
    | {"federation.scheduling": "asynchronous", "clients.client-2.link": {"step_s": 0.7}},
}
FARTHEST = 1e6  # further than any update goes
every_way = pytest.mark.parametrize("way", WAYS)


def adapter_of(run):
    return load_file(run.adapter / "adapter_model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Stop(BaseException):
    pass


class StopInRound2(Observer):
    def on_step(self, report):
        if report.round == 2:
            raise Stop


def test_a_wrapper_hands_on_whatever_a_trainer_does():
    methods = {name for name in vars(Trainer) if not name.startswith("_")}
    assert methods <= vars(Wrapper).keys()


@every_way
def test_what_changes_nothing_changes_no_bit(tiny_config, trained, tmp_path, monkeypatch, way):
    config = tiny_config.override(WAYS[way])
    plain = trained(config)
    made = []

    def both(trainer, name, config, folder):
        made.append(ClipUpdate(Wrapper(trainer, name), name, FARTHEST))
        return made[-1]

    monkeypatch.setattr(build, "wrapped", both)
    run = train(config, tmp_path / "wrapped")
    assert len(made) == 3
    assert same(adapter_of(plain), adapter_of(run))
    assert plain.result["bytes"] == run.result["bytes"]
    assert plain.result["eval"] == run.result["eval"]


@pytest.mark.parametrize(
    "way",
    [
        "standard",
        "asynchronous",
        *(pytest.param(way, marks=pytest.mark.slow) for way in ("u-shape", "whole")),
    ],
)
def test_no_update_is_larger_than_the_bound_and_a_resumed_run_has_the_same_bits(
    tiny_config, trained, tmp_path, monkeypatch, way
):
    bound, norms = 0.05, []
    made = Client._made

    def measured(self, *content):
        theirs, base = self._trainer.adapter(), self._held.base
        norms.append(sum(float((theirs[name] - base[name]).square().sum()) for name in base) ** 0.5)
        return made(self, *content)

    monkeypatch.setattr(Client, "_made", measured)
    free = tiny_config.override(WAYS[way])
    config = free.override({"client.clip_update": bound})
    straight = train(config, tmp_path / "straight")
    assert max(norms) == pytest.approx(bound, rel=1e-4), "or else none was clipped"
    assert straight.result["eval"]["loss"] < straight.result["eval"]["initial_loss"]
    assert not same(adapter_of(trained(free)), adapter_of(straight))
    with pytest.raises(Stop):
        train(config, tmp_path / "halted", observers=[StopInRound2()])
    resumed = train(config, tmp_path / "halted", resume=True)
    assert same(adapter_of(straight), adapter_of(resumed))


def test_a_round_that_is_paused_keeps_what_its_proximal_term_draws_to(tiny_config, tmp_path):
    config = tiny_config.override(WAYS["asynchronous"] | {"client.proximal": 10.0})
    straight = train(config, tmp_path / "straight")
    with pytest.raises(Stop):
        train(config, tmp_path / "halted", observers=[StopInRound2()])
    assert same(adapter_of(straight), adapter_of(train(config, tmp_path / "halted", resume=True)))
