"""The body over two processes, as torchrun starts them: as in one process, also after one of them was killed."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from splitcom.config import Config
from splitcom.errors import ConfigError
from splitcom.methods.run import train
from splitcom.models import read_adapter

from .parties import PATIENCE_S, fork_server

PROCESS = Path(__file__).with_name("engine_process.py")


@pytest.fixture(scope="module")
def forks():
    return fork_server()


def run_two(forks, folder, arguments, model=None, dies_at=None):
    """Two processes; what they printed and their exit codes, the leader's first. `dies_at` is the other's."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes, logs = [], []
    for rank in range(2):
        told = {
            "TORCHELASTIC_RUN_ID": "test",
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
        }
        logs.append(folder / f"process-{rank}.log")
        logs[-1].unlink(missing_ok=True)
        globals_ = {
            "ENVIRONMENT": told,
            "LOG": str(logs[-1]),
            "ARGUMENTS": arguments and [str(one) for one in arguments],
            "MODEL": model,
            "DIES_AT": dies_at if rank else None,
        }
        process = forks.Process(target=runpy.run_path, args=(str(PROCESS), globals_, "__main__"), daemon=True)
        process.start()
        processes.append(process)
    for process, log in zip(processes, logs, strict=True):
        process.join(10 * PATIENCE_S)  # of a run, not of a step
        assert process.exitcode is not None, log.read_text()
    return [log.read_text() for log in logs], [process.exitcode for process in processes]


def losses_of(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [
        (line["round"], line["client"], line["loss"], line["eval_loss"]) for line in lines if line["round"]
    ]


def rounds_of(folder):
    return {line[0] for line in losses_of(folder)} if (folder / "metrics.jsonl").exists() else set()


def test_two_processes_give_what_one_does(forks, tmp_path, tiny_model):
    texts, codes = run_two(forks, tmp_path, None, tiny_model)
    assert codes == [0, 0], texts
    assert "as in one process" in texts[0]


def test_a_run_goes_on_from_its_checkpoint_after_a_process_was_killed(forks, tmp_path, tiny_config):
    alone = train(tiny_config, tmp_path / "alone")
    (tmp_path / "run.toml").write_text(tiny_config.override({"engine.kind": "sharded"}).to_toml())
    arguments = ["train", tmp_path / "run.toml", "--out", tmp_path / "run"]
    texts, codes = run_two(forks, tmp_path, arguments, dies_at=(2, 1))
    assert codes[0] == 1 and codes[1] < 0
    assert "a process of the engine has ended" in texts[0] and "--resume" in texts[0]
    assert {round_index for round_index, *_ in losses_of(tmp_path / "run")} == {1}

    texts, codes = run_two(forks, tmp_path, [*arguments, "--resume"])
    assert codes == [0, 0], texts
    found, expected = losses_of(tmp_path / "run"), losses_of(alone.folder)
    assert [line[:2] for line in found] == [line[:2] for line in expected]
    torch.testing.assert_close(
        [line[2:] for line in found], [line[2:] for line in expected], rtol=1e-4, atol=0
    )
    state, other = read_adapter(tmp_path / "run" / "adapter"), read_adapter(alone.adapter)
    assert state.keys() == other.keys()


@pytest.mark.slow
def test_the_command_starts_its_processes_and_goes_on_after_one_was_killed(tmp_path, tiny_config):
    sharded = {"engine.kind": "sharded", "engine.processes": 2, "training.rounds": 8}
    (tmp_path / "run.toml").write_text(tiny_config.override(sharded).to_toml())
    run, command = tmp_path / "run", [sys.executable, "-m", "splitcom", "train", str(tmp_path / "run.toml")]
    command += ["--out", str(run)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as started:
        while started.poll() is None and not rounds_of(run):
            time.sleep(0.05)
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
        others = [pid for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
        os.kill(int(others[0]), signal.SIGKILL)
        _, said = started.communicate()
    assert started.returncode == 1 and "process 1 of the engine was killed (SIGKILL)" in said
    assert 0 < len(rounds_of(run)) < 8
    subprocess.run([*command, "--resume"], check=True, stderr=subprocess.PIPE)
    assert rounds_of(run) == set(range(1, 9))


def test_one_process_is_told_how_to_start_more(tmp_path, tiny_config):
    with pytest.raises(ConfigError, match="which the commands `splitcom serve`"):
        train(tiny_config.override({"engine.kind": "sharded"}), tmp_path / "run")


def test_processes_that_have_nothing_to_do_are_refused(monkeypatch, tmp_path, tiny_config):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    with pytest.raises(ConfigError, match=r"engine.kind = 'local' runs in one process"):
        train(tiny_config, tmp_path / "run")
    with pytest.raises(ConfigError, match="the server runs no part of the model"):
        train(Config().override({"method": "fedlora", "engine.kind": "sharded"}), tmp_path / "run")
