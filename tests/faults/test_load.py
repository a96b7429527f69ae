"""The benchmarks of many clients at once, with fewer of them: all take every step, and the run ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.mark.slow
def test_many_clients_at_once_complete_a_run_and_none_starves(tmp_path: Path) -> None:
    out = tmp_path / "load.json"
    options = ["--clients=16", "--processes=2", "--rounds=3", f"--out={out}"]
    subprocess.run([sys.executable, PROJECT / "benchmarks" / "load.py", *options], check=True, timeout=1_200)
    results = json.loads(out.read_text(encoding="utf-8"))["results"]
    for body_update, result in results.items():
        steps = result["steps of a client, least"]
        assert steps == result["steps of a client, most"] == 3 * 2, body_update
        assert result["loss"] < result["initial loss"], body_update
        assert result["threads"] <= 40, body_update  # none for each client
        assert result["per idle client, MiB"] < 4, body_update


@pytest.mark.slow
def test_sessions_that_leave_and_return_are_all_served_by_as_many_threads_as_one(tmp_path: Path) -> None:
    out = tmp_path / "sessions.json"
    options = ["--sessions=24", "--active=8", "--churn=0.2", "--processes=2", "--rounds=3", f"--out={out}"]
    subprocess.run([sys.executable, PROJECT / "benchmarks" / "load.py", *options], check=True, timeout=1_200)
    result = json.loads(out.read_text(encoding="utf-8"))["results"]
    assert (
        result["steps"] >= 3 * 8 and result["steps that were not answered"] <= 0
    )  # below in rounds that are repeated
    assert result["sessions that came back"] > 0
    assert result["threads, at most"] <= 40
