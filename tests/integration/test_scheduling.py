"""Deadlines, over-selection and asynchronous rounds: who is waited for, the same bits each time, books in order."""

import json

import pytest
import torch
from safetensors.torch import load_file

from splitcom.client.front import FrontTrainer
from splitcom.errors import ConfigError
from splitcom.methods.run import train
from splitcom.server.observe import Observer
from splitcom.server.steps import Steps
from splitcom.simulation import simulation as room
from splitcom.transports.inproc import InProcess

SLOW = {  # client-2 takes eight times as long as the others
    "data.samples": 17,
    "training.rounds": 3,
    "links.step_s": 1.0,
    "links.server_step_s": 0.125,
    "links.latency_ms": 100.0,
    "clients.client-2.link": {"step_s": 8.0, "latency_ms": 100.0},
    "flows.activation_up.codec": "temporal(0.9) > delta > int4 > zstd",
    "flows.gradient_down.codec": "delta > int8(rounding=stochastic)",
    "lora.dropout": 0.1,
}
DEADLINE = SLOW | {"federation.deadline_s": 14.0}
OVER = SLOW | {"federation.sample": 0.67, "federation.over_select": 0.5}
ASYNCHRONOUS = SLOW | {"federation.scheduling": "asynchronous"}
SAMPLED = {
    "federation.sample": 0.67,
    "federation.asynchronous.buffer": 2,
    "training.body_update": "sequential",
    "evaluation.every": 2,  # a pause that is saved and not evaluated in
}
WAYS = {
    "deadline": DEADLINE,
    "over-selection": OVER,
    "asynchronous": ASYNCHRONOUS,
    "asynchronous, sampled": ASYNCHRONOUS | SAMPLED,
}
every_way = pytest.mark.parametrize("changes", WAYS.values(), ids=WAYS)


def adapter_of(run):
    return load_file(run.adapter / "adapter_model.safetensors")


def assert_same_run(one, other):
    ours, theirs = adapter_of(one), adapter_of(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert one.result["eval"] == other.result["eval"]


def lines_of(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def updates_of(run):
    """By round: how many updates came of each client."""
    lines = [line for line in lines_of(run) if line["round"]]
    rounds = sorted({line["round"] for line in lines})
    return [{line["client"]: line["updates"] for line in lines if line["round"] == r} for r in rounds]


@every_way
def test_the_same_seed_gives_the_same_bits_and_the_books_add_up(tiny_config, trained, tmp_path, changes):
    config = tiny_config.override(changes)
    first, second = trained(config), train(config, tmp_path / "again")
    assert_same_run(first, second)
    assert first.result["bytes"] == second.result["bytes"]
    assert first.result["seconds"]["virtual"] == second.result["seconds"]["virtual"]
    assert first.result["eval"]["loss"] < first.result["eval"]["initial_loss"]
    for key in ("activation_up", "gradient_down", "adapter_up", "evaluation"):
        assert sum(line["bytes"][key] for line in lines_of(first)) == first.result["bytes"][key], key


@every_way
def test_fronts_are_frozen_at_the_end_of_a_round_also_where_some_are_still_at_work(
    tiny_config, tmp_path, changes
):
    changes = changes | {"training.rounds": 4, "lora.dropout": 0.0}
    freeze = {"flows.activation_up.controller": "freeze(0.9, 0.99, patience=0)"}
    learning = train(tiny_config.override(changes), tmp_path / "learning")
    run = train(tiny_config.override(changes | freeze), tmp_path / "frozen")
    for flow in ("gradient_down", "adapter_up"):
        assert 0.4 < run.result["bytes"][flow] / learning.result["bytes"][flow] < 0.8, flow
    assert run.result["eval"]["loss"] < run.result["eval"]["initial_loss"]


def test_a_deadline_leaves_out_who_is_late_unless_too_few_have_ended(tiny_config, trained, tmp_path):
    run = trained(tiny_config.override(DEADLINE))
    assert [updates["client-2"] for updates in updates_of(run)] == [0, 0, 0]
    assert all(updates["client-0"] == updates["client-1"] == 1 for updates in updates_of(run))
    all_needed = train(tiny_config.override(DEADLINE | {"federation.min_clients": 3}), tmp_path / "three")
    assert all(set(updates.values()) == {1} for updates in updates_of(all_needed))
    assert run.result["seconds"]["virtual"] < all_needed.result["seconds"]["virtual"]


def test_of_more_clients_than_are_needed_the_slow_one_is_left_out(tiny_config, trained):
    run = trained(tiny_config.override(OVER))
    assert updates_of(run) == [{"client-0": 1, "client-1": 1, "client-2": 0}] * 3


def test_asynchronous_clients_train_at_their_own_pace(tiny_config, tmp_path):
    run = train(tiny_config.override(ASYNCHRONOUS | {"training.rounds": 6}), tmp_path / "run")
    rounds = updates_of(run)
    totals = {name: sum(updates[name] for updates in rounds) for name in rounds[0]}
    assert totals["client-0"] > 2 * totals["client-2"] > 0
    assert sum(totals.values()) >= 6 * 3
    stale = {line["client"]: line["staleness"] for line in lines_of(run) if line["staleness"] is not None}
    assert stale["client-2"] > stale["client-0"]


def test_clients_that_train_whole_models_are_scheduled_too(tiny_config, tmp_path):
    whole = {"method": "fedlora", "evaluation.every": 3, "training.checkpoint_every": 3}
    for name, changes in (("deadline", DEADLINE | {"federation.deadline_s": 3.0}), ("free", ASYNCHRONOUS)):
        run = train(tiny_config.override(changes | whole), tmp_path / name)
        totals = sum((line["updates"] for line in lines_of(run) if line["client"] == "client-2"), 0)
        assert totals < 3
        assert run.result["eval"]["loss"] < run.result["eval"]["initial_loss"]


def test_measured_times_are_refused_where_bits_depend_on_them(tiny_config, tmp_path):
    changes = ASYNCHRONOUS | {"clients.client-2.link": {"latency_ms": 100.0}}
    with pytest.raises(
        ConfigError, match=r"set links.step_s, links.server_step_s and step_s of every link in clients"
    ):
        train(tiny_config.override(changes), tmp_path / "run")


def test_a_client_that_pauses_without_being_told_is_refused(tiny_config, tmp_path, monkeypatch, caplog):
    def pausing(self, *arguments):
        yield from step(self, *arguments)
        return self._name == "client-1"

    step = FrontTrainer._step
    monkeypatch.setattr(FrontTrainer, "_step", pausing)
    run = train(tiny_config.override(ASYNCHRONOUS), tmp_path / "run")
    assert "client-1 is refused: it has paused without being told to" in caplog.text
    assert run.result["clients"] == tiny_config.federation.clients - 1


class Stop(BaseException):  # as Ctrl-C; what else an observer raises ends nothing
    pass


class StopAt(Observer):
    def __init__(self, round_index, step):
        self._at = (round_index, step)

    def on_step(self, report):
        if (report.round, report.step) == self._at:
            raise Stop


@every_way
def test_a_run_resumed_after_an_interruption_ends_with_the_same_bits(tiny_config, trained, tmp_path, changes):
    config = tiny_config.override(changes)
    straight = trained(config)
    with pytest.raises(Stop):
        train(config, tmp_path / "halted", observers=[StopAt(3, 2)])
    resumed = train(config, tmp_path / "halted", resume=True)
    assert_same_run(straight, resumed)
    assert straight.result["seconds"]["virtual"] == resumed.result["seconds"]["virtual"]
    kept = ("round", "client", "steps", "updates", "staleness", "loss")
    rows = [[[line[key] for key in kept] for line in lines_of(run)] for run in (straight, resumed)]
    assert rows[0] == rows[1]


@every_way
def test_a_client_restarted_in_mid_round_changes_no_bit(tiny_config, trained, tmp_path, monkeypatch, changes):
    at = 50

    class Disturbed(InProcess):
        events = 0

        def receive(self, timeout_s=None):
            Disturbed.events += 1
            if Disturbed.events == at:
                self.reset("client-2")
            return super().receive(timeout_s)

    config = tiny_config.override(changes)
    undisturbed = trained(config)
    monkeypatch.setattr(room, "InProcess", Disturbed)
    run = train(config, tmp_path / "disturbed")
    assert Disturbed.events > at
    assert_same_run(undisturbed, run)


@pytest.mark.parametrize("changes", [DEADLINE, ASYNCHRONOUS])
def test_the_references_of_both_sides_stay_alike(tiny_config, tmp_path, monkeypatch, changes):
    """Also those of a client that is late again and again: no packet ever builds on what the server has not."""
    lost = []
    monkeypatch.setattr(Steps, "_send_gradient", spy(Steps._send_gradient, lost))
    monkeypatch.setattr(FrontTrainer, "_activation", spy(FrontTrainer._activation, lost))
    train(tiny_config.override(changes), tmp_path / "run")
    assert lost and not any(lost)


def spy(method, lost):
    def noted(*arguments, **options):
        lost.append(bool(options.get("self_contained") or options.get("lost")))
        return method(*arguments, **options)

    return noted
