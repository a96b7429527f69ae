"""How the processes of an engine are started: what torchrun is told, and what is said if it cannot be."""

import os
import sys

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from splitcom.config import Config
from splitcom.errors import ConfigError, RunError
from splitcom.methods.processes import Machines, start_processes

SHARDED = Config().override({"engine.kind": "sharded", "engine.processes": 2})


@pytest.fixture
def told(monkeypatch):
    """What torchrun is told, in place of starting anything."""
    found = []
    monkeypatch.setattr("torch.distributed.run.run", found.append)
    monkeypatch.setattr(sys, "argv", ["splitcom", "serve", "run.toml", "--resume"])
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return found


def test_one_machine_runs_the_same_command_in_each_process(told):
    assert start_processes(SHARDED) == 0
    (arguments,) = told
    assert arguments.standalone and arguments.nproc_per_node == "2" and arguments.module
    assert [arguments.training_script, *arguments.training_script_args] == [
        "splitcom", "serve", "run.toml", "--resume",
    ]  # fmt: skip


def test_several_machines_meet_at_the_first(told):
    assert start_processes(SHARDED, Machines(2, 1, "10.0.0.1:29500")) == 0
    (arguments,) = told
    place = (arguments.nnodes, arguments.node_rank, arguments.master_addr, arguments.master_port)
    assert place == ("2", 1, "10.0.0.1", 29500)


def test_nothing_is_started_for_one_process_or_within_several(told, monkeypatch):
    assert start_processes(Config()) is None
    monkeypatch.setitem(os.environ, "TORCHELASTIC_RUN_ID", "test")
    assert start_processes(SHARDED, Machines(2, 1, "10.0.0.1:29500")) is None
    assert not told


@pytest.mark.parametrize(
    ("changes", "machines", "why"),
    [
        (
            {"engine.kind": "local", "engine.processes": None},
            Machines(2),
            "--machines: .* 'local' runs on one",
        ),
        ({}, Machines(2, 2, "a:1"), "--machine 2: with --machines 2 it is 0 to 1"),
        ({}, Machines(2), "--meet: needed with --machines"),
        ({"training.split": False, "method": "fedlora"}, Machines(), "the server runs no part"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(told, changes, machines, why):
    with pytest.raises(ConfigError, match=why):
        start_processes(SHARDED.override(changes), machines)
    assert not told


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are CUDA devices to count")
def test_without_cuda_the_number_of_processes_must_be_given(told):
    with pytest.raises(ConfigError, match=r"engine\.processes: needed"):
        start_processes(SHARDED.override({"engine.processes": None}))


@pytest.mark.parametrize(("exit_code", "says"), [(-9, True), (1, False)])
def test_a_killed_process_is_told_of_and_another_has_said_itself_why_it_failed(
    told, monkeypatch, exit_code, says
):
    def fail(arguments):
        raise ChildFailedError("splitcom", {1: ProcessFailure(1, 7, exit_code, "none")})

    monkeypatch.setattr("torch.distributed.run.run", fail)
    if not says:
        assert start_processes(SHARDED) == 1
        return
    with pytest.raises(RunError, match=r"process 1 of the engine was killed \(SIGKILL\).*--resume"):
        start_processes(SHARDED)
