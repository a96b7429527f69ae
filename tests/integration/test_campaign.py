"""Several comparisons with shared runs: nothing runs twice, an interruption costs nothing, a failure is named."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from splitcom.cli import main
from splitcom.config import VariantConfig
from splitcom.errors import ConfigError, RunError
from splitcom.methods import campaign
from splitcom.methods.campaign import run_campaign
from splitcom.report import load_comparison
from splitcom.report.summary import summarise

from .parties import HELD, PATIENCE_S, found, held, wait_until


def variants(config, *chosen):
    return config.override(
        {"comparison.variants": [one.model_dump() for one in chosen], "comparison.seeds": [0]}
    )


@contextmanager
def in_threads(jobs):
    """In place of processes, each of which imports everything for seconds."""
    with ThreadPoolExecutor(jobs) as pool:
        yield pool


BASE = VariantConfig(name="base", method="splitlora")
OURS = VariantConfig(name="ours")


def test_shared_runs_run_once_and_a_second_time_nothing_does(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "_pool", in_threads)
    small = tiny_config.override({"training.rounds": 1})
    frozen = VariantConfig(name="frozen", method="frozen_front")
    renamed = VariantConfig(name="uncompressed", method="splitlora")
    configs = {"one": variants(small, BASE, OURS), "two": variants(small, renamed, frozen)}
    seen = []
    folders = run_campaign(configs, tmp_path, 2, seen.append)
    assert folders == [tmp_path / "one", tmp_path / "two"]
    assert len(list((tmp_path / "runs").iterdir())) == 3
    assert seen[-1].runs_done == seen[-1].runs == seen[-1].rounds == seen[-1].rounds_done == 3
    labels = [[run.result.label for run in load_comparison(folder).runs] for folder in folders]
    assert labels == [["base", "ours"], ["uncompressed", "frozen"]]
    assert all(run.metrics for folder in folders for run in load_comparison(folder).runs)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("result.json")}
    run_campaign(configs, tmp_path, 1)
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_what_has_been_run_is_known_when_everything_has_been_moved(
    tiny_config, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(campaign, "_pool", in_threads)
    before, now = tmp_path / "before", tmp_path / "now"
    (before / "rows").mkdir(parents=True)
    shutil.copytree(tiny_model, before / "model")
    for name, rows in (("train", range(20)), ("test", range(20, 24))):
        lines = [json.dumps({"text": f"row {row} says", "label": "ab"[row % 2]}) for row in rows]
        (before / "rows" / f"{name}.jsonl").write_text("\n".join(lines))

    def configs(folder):
        changes = {
            "training.rounds": 1,
            "model.source": str(folder / "model"),
            "data.source": str(folder / "rows" / "train.jsonl"),
            "data.held_out": f"{folder}/rows[test]",
            "data.task": "classification",
            "data.prompt": "{text}",
            "data.response": "label",
        }
        return {"one": variants(tiny_config.override(changes), BASE)}

    run_campaign(configs(before), before / "runs", 1)
    before.rename(now)
    results = {path: path.stat().st_mtime_ns for path in now.rglob("result.json")}
    assert len(results) == 1
    run_campaign(configs(now), now / "runs", 1)
    assert results == {path: path.stat().st_mtime_ns for path in now.rglob("result.json")}
    path = now / "rows" / "test.jsonl"
    path.write_text(path.read_text().replace("row 20", "row 99"))
    run_campaign(configs(now), now / "runs", 1)
    assert len(list(now.rglob("result.json"))) == 2


def test_a_failure_is_named_and_the_others_end(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "_pool", in_threads)
    small = tiny_config.override({"training.rounds": 1})
    broken = VariantConfig(name="broken", set={"data.prompt": "{nowhere}"})
    with pytest.raises(RunError, match=r"broken: .*no column 'nowhere'"):
        run_campaign({"bad": variants(small, broken), "good": variants(small, BASE)}, tmp_path, 1)
    assert load_comparison(tmp_path / "good").runs and not (tmp_path / "bad").exists()


def test_a_worker_that_is_killed_is_told_with_what_helps(tiny_config, tmp_path):
    def kill(_):
        for worker in multiprocessing.active_children():
            worker.kill()

    with pytest.raises(RunError, match=r"was killed, .* the same command goes on, perhaps with fewer --jobs"):
        run_campaign({"one": variants(tiny_config, BASE)}, tmp_path, 2, kill)


def test_each_group_has_its_own_baseline(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "_pool", in_threads)
    small = tiny_config.override({"training.rounds": 1})
    chosen = [
        VariantConfig(
            name=f"{name}, {clients}", group=str(clients), method=method, set={"federation.clients": clients}
        )
        for clients in (1, 2)
        for name, method in (("base", "splitlora"), ("ours", "splitcom"))
    ]
    [folder] = run_campaign({"clients": variants(small, *chosen)}, tmp_path, 1)
    rows = {row.label: row for row in summarise([run.result for run in load_comparison(folder).runs])}
    for clients in (1, 2):
        base, ours = rows[f"base, {clients}"], rows[f"ours, {clients}"]
        assert base.share.mean == 1 and base.change.mean == 0
        assert ours.share.mean == pytest.approx(ours.total.mean / base.total.mean)
        assert ours.change.mean == pytest.approx(ours.loss.mean / base.loss.mean - 1)


def test_a_file_extends_another(tmp_path):
    from splitcom.config import Config

    (tmp_path / "base.toml").write_text("seed = 5\n[training]\nrounds = 7\nlr = 0.5\n")
    top = tmp_path / "top.toml"
    top.write_text('extends = "base.toml"\n[training]\nrounds = 3\n')
    config = Config.load(top, {"seed": 6})
    assert (config.seed, config.training.rounds, config.training.lr) == (6, 3, 0.5)
    (tmp_path / "base.toml").write_text('extends = "top.toml"\n')
    with pytest.raises(ConfigError, match="extends itself"):
        Config.load(top)
    top.write_text('extends = "nowhere.toml"\n')
    with pytest.raises(ConfigError, match=r"nowhere\.toml: no such file"):
        Config.load(top)


def is_there(group):
    """Whether a process of that group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda pid: os.killpg(pid, signal.SIGINT), id="ctrl-c", marks=pytest.mark.slow),
        pytest.param(lambda pid: os.kill(pid, signal.SIGKILL), id="kill -9 of the campaign alone"),
    ],
)
def test_an_end_ends_the_workers_and_the_same_command_goes_on(tiny_config, tmp_path, end, monkeypatch):
    path, out = tmp_path / "slow.toml", tmp_path / "out"
    path.write_text(variants(tiny_config.override({"training.rounds": 3}), BASE).to_toml())
    command = ["campaign", str(path), "--out", str(out), "--jobs", "1"]
    process = subprocess.Popen(
        [sys.executable, HELD, *command],
        env=held(2, tmp_path),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    wait_until(lambda: any('"round": 1' in path.read_text() for path in found(out, "metrics.jsonl")))
    end(process.pid)
    assert process.wait(PATIENCE_S) != 0
    wait_until(lambda: not is_there(process.pid))
    [metrics] = found(out, "metrics.jsonl")
    assert not found(out, "result.json")
    before = json.loads(metrics.read_text().splitlines()[0])
    monkeypatch.setattr(campaign, "_pool", in_threads)
    monkeypatch.setattr(sys, "argv", ["splitcom", *command])
    with suppress(SystemExit):
        main()
    assert load_comparison(out / "slow").runs[0].result.rounds == 3
    assert json.loads(metrics.read_text().splitlines()[0]) == before
