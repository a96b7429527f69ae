"""Clients that begin anew in the middle of a run, lose their state, or leave."""

import json

import pytest
import torch
from safetensors.torch import load_file

from splitcom.errors import UnknownReference
from splitcom.methods.run import train
from splitcom.parties import build
from splitcom.protocol.messages_pb2 import Message
from splitcom.simulation import simulation as room
from splitcom.training.channel import Channel
from splitcom.transports.inproc import InProcess

CHANGES = {
    "links.step_s": 1.0,  # or else the events of a run would come in another order each time
    "links.server_step_s": 0.1,
    "training.rounds": 3,
    "flows.activation_up.codec": "temporal(0.9) > delta > int4 > zstd",
    "flows.gradient_down.codec": "delta > int8(rounding=stochastic)",
}


U_SHAPE = {
    "model.tail_blocks": 1,
    "flows.activation_down.codec": "temporal(0.9) > delta > int4 > zstd",
    "flows.gradient_up.codec": "delta > int8(rounding=stochastic)",
}


PREDICTED = {
    "flows.activation_up.codec": "predict > klt(16) > uniform(0.5, dead_zone=0.3) > range",
    "flows.gradient_down.codec": "predict(window=0) > klt(16, threshold=0.3, centre=sum, along=4) > uniform(2) > range",
}


def adapter_of(run):
    return load_file(run.adapter / "adapter_model.safetensors")


def lines_of(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def disturbed(monkeypatch, at, act):
    """Have `act(transport)` happen before the `at`-th event of a run."""

    class Disturbed(InProcess):
        events = 0

        def receive(self, timeout_s=None):
            Disturbed.events += 1
            if Disturbed.events == at:
                act(self)
            return super().receive(timeout_s)

    monkeypatch.setattr(room, "InProcess", Disturbed)
    return Disturbed


@pytest.mark.parametrize(
    ("at", "form"),
    [
        *((at, {}) for at in (8, 33, 61)),  # before the first batch, in the second round, in the third
        (31, U_SHAPE),
        (47, PREDICTED),
        *(pytest.param(at, {}, marks=pytest.mark.slow) for at in (20, 47)),
        *(pytest.param(at, U_SHAPE, marks=pytest.mark.slow) for at in (20, 28, 61)),
        pytest.param(20, PREDICTED, marks=pytest.mark.slow),
    ],
)
def test_a_client_restarted_in_mid_round_changes_no_bit(
    tiny_config, trained, tmp_path, monkeypatch, at, form
):
    config = tiny_config.override(CHANGES | form)
    undisturbed = trained(config)
    spy = disturbed(monkeypatch, at, lambda transport: transport.reset("client-1"))
    run = train(config, tmp_path / "disturbed")
    assert spy.events > at
    one, other = adapter_of(undisturbed), adapter_of(run)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert run.result["eval"] == undisturbed.result["eval"]
    assert run.result["repeated_bytes"] > 0 == undisturbed.result["repeated_bytes"]
    flows = ("activation_up", "gradient_down", "labels_up", "activation_down", "gradient_up")
    assert all(run.result["bytes"][flow] == undisturbed.result["bytes"][flow] for flow in flows)


def test_a_client_that_begins_anew_in_a_round_of_others_changes_no_bit(tiny_config, tmp_path, monkeypatch):
    times = {
        "links.step_s": 1.0,
        "links.server_step_s": 0.1,
    }  # the same each time: it is back before the round ends
    config = tiny_config.override(CHANGES | times | {"federation.sample": 0.34, "training.rounds": 2})
    undisturbed = train(config, tmp_path / "undisturbed")
    steps = [line for line in lines_of(undisturbed) if line["round"] == 1 and line["steps"]]
    assert [line["client"] for line in steps] == ["client-1"]
    disturbed(monkeypatch, 17, lambda transport: transport.reset("client-2"))
    run = train(config, tmp_path / "disturbed")
    one, other = adapter_of(undisturbed), adapter_of(run)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert run.result["eval"] == undisturbed.result["eval"]
    assert run.result["repeated_bytes"] == 0


def test_losses_without_a_clients_rows_are_not_compared_with_those_that_have_them(
    tiny_config, tmp_path, monkeypatch
):
    class Leaving(InProcess):
        activations = 0

        def _answer(self, client, data):
            if client == "client-1" and Message.FromString(data).WhichOneof("kind") == "activation":
                Leaving.activations += 1
            if client != "client-1" or Leaving.activations < 2:
                super()._answer(client, data)
            elif Leaving.activations == 2:
                super()._answer(client, Message(failure={"reason": "disk full"}).SerializeToString())

    monkeypatch.setattr(room, "InProcess", Leaving)
    run = train(tiny_config.override({"training.rounds": 2}), tmp_path / "run")
    lines, found = lines_of(run), run.result["eval"]
    rows = {line["round"]: line["eval_rows"] for line in lines}
    assert rows[0] > rows[1] == rows[2] == found["rows"] > 0
    losses = {line["round"]: line["eval_loss"] for line in lines}
    assert found["best_loss"] == min(losses[1], losses[2], found["loss"]) and found["fell_by"] is None
    assert found["initial_loss"] == losses[0]
    assert run.result["clients"] == 2 and run.result["participation"] == {
        "client-0": "1-2",
        "client-2": "1-2",
    }
    (warning,) = run.result["warnings"]
    assert (
        f"rounds 0 are over other rows than the last one, which is over {rows[2]} of client-0, client-2"
        in warning
    )


def test_gradients_whose_references_are_lost_are_sent_again_also_the_last_of_a_round(
    tiny_config, tmp_path, monkeypatch
):
    class Forgetful(Channel):
        lost = 0

        def decode(self, *arguments):
            if self.flow == "gradient_down":
                self.references.clear()
            try:
                return super().decode(*arguments)
            except UnknownReference:
                Forgetful.lost += 1
                raise

    monkeypatch.setattr(build, "Channel", Forgetful)
    run = train(tiny_config.override(CHANGES), tmp_path / "run")
    steps = [line["steps"] for line in lines_of(run) if line["round"] > 1]
    assert Forgetful.lost == sum(steps) > 0
    assert run.result["eval"]["loss"] < run.result["eval"]["initial_loss"]


@pytest.mark.parametrize("victim", ["server", "client-0"])
def test_a_damaged_checkpoint_is_as_one_that_was_not_saved(
    tiny_config, trained, tmp_path, monkeypatch, victim, caplog
):
    config = tiny_config.override(CHANGES)
    undisturbed = trained(config)
    disturbed(monkeypatch, 61, lambda transport: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run")
    monkeypatch.undo()
    newest = max((tmp_path / "run" / "checkpoint" / victim).glob("round-*"))
    content = bytearray((newest / "state.safetensors").read_bytes())
    content[-1] ^= 1  # of a tensor
    (newest / "state.safetensors").write_bytes(content)
    run = train(config, tmp_path / "run", resume=True)
    assert "damaged checkpoint" in caplog.text
    one, other = adapter_of(undisturbed), adapter_of(run)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert run.result["eval"] == undisturbed.result["eval"] and run.result["warnings"] == []
    assert [(line["round"], line["client"]) for line in lines_of(run)] == [
        (line["round"], line["client"]) for line in lines_of(undisturbed)
    ]
