import json
import re
from dataclasses import asdict
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from splitcom.cli import app
from splitcom.config import Config
from splitcom.methods.monitor import Snapshot
from splitcom.report.format import format_bytes
from splitcom.report.live import clients_table, headline, progress_table
from splitcom.server.peers import Standing
from splitcom.transports.grpc_server import ClientTraffic


def shown(folder: Path, rounds: int) -> str:
    console = Console(file=StringIO(), width=80)
    console.print(progress_table(folder, rounds))
    return console.file.getvalue()


def test_a_run_is_shown_as_far_as_it_has_come(run_folder: Path) -> None:
    whole = shown(run_folder, 4)
    total = json.loads((run_folder / "result.json").read_text())["bytes"]["total"]
    assert "round 4 of 4" in whole and format_bytes(total) in whole and "activation_up" in whole
    assert "0.98" in whole and "…" not in whole
    path = run_folder / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    assert "round 1 of 4" in shown(run_folder, 4)
    path.unlink()
    assert "round 0 of 4" in shown(run_folder, 4)


def test_clients_are_shown_with_what_they_are_at_and_since_when_they_are_waited_for() -> None:
    snapshot = Snapshot(
        rounds=5, round=2, step=3, num_steps=9, save_age_s=12.0, step_seconds={"waiting": 1.5, "body": 0.25},
        refusals={"FULL": 2},
        clients={"a": ClientTraffic(True, 1000, 2000, 3), "b": ClientTraffic(False, 1, 2, 0)},
        standings={
            "a": Standing("training", 75.0, restarts=1, refusals=2),
            "b": Standing("failed", 9.0, reason="no space left"),
            "c": Standing("excluded", reason="stolen"),
        },
    )  # fmt: skip
    console = Console(file=StringIO(), width=120)
    console.print(clients_table(snapshot))
    rows = [" ".join(row.split()) for row in console.file.getvalue().splitlines()]
    assert re.match(
        r"a training since \d\d:\d\d:\d\d \(75 s\) 1.00 kB 2.00 kB 3 reconnections, 1 restart, 2 refusals",
        rows[3],
    )
    assert re.match(r"b failed: no space left since .* \(9 s\)", rows[4]) and rows[5].startswith(
        "c excluded: stolen"
    )
    assert "round 2/5 step 3/9" in (said := " ".join(headline(snapshot).split()))
    assert "1 client connected waiting 1.50 s body 0.25 s saved 12 s ago 2 connections refused" in said


def test_watch_shows_rounds_and_of_a_server_also_its_clients(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_folder / "config.toml").write_text(Config(training={"rounds": 4}).to_toml())
    lines = CliRunner().invoke(app, ["watch", str(run_folder)]).output.splitlines()  # on a pipe
    assert [line.split("  ")[0] for line in lines] == [f"round {number} of 4" for number in (1, 2, 3, 4)]
    monkeypatch.setattr("splitcom.report.terminal.Terminal.is_terminal", True)
    alone = CliRunner().invoke(app, ["watch", str(run_folder)])
    assert alone.exit_code == 0 and "round 4 of 4" in alone.output and "waited for" not in alone.output
    snapshot = Snapshot(rounds=4, standings={"clinic-a": Standing("gone", 75.0)})
    monkeypatch.setattr("splitcom.methods.admin.ask", lambda run, ask: {"snapshot": asdict(snapshot)})
    served = CliRunner().invoke(app, ["watch", str(run_folder)])
    assert re.search(r"round 4 of 4.*clinic-a\S*  gone  since", served.output, re.DOTALL)


def test_clients_that_are_unlike_the_others_are_named_beside_their_round(run_folder: Path) -> None:
    assert "unlike" not in shown(run_folder, 4)
    path = run_folder / "metrics.jsonl"
    *before, last = map(json.loads, path.read_text().splitlines())
    lines = [*before, last | {"unlike": ["update_norm"], "client": "mallory"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = progress_table(run_folder, 4)
    column = next(column for column in table.columns if column.header == "unlike the others")
    assert [str(cell) for cell in column.cells if str(cell)] == ["mallory"]
