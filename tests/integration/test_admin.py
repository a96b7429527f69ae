"""A running server is asked who it waits for, and told to go on without a client or with another in its place."""

import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from splitcom.cli import app
from splitcom.config import Config
from splitcom.errors import RunError
from splitcom.methods.admin import ask, snapshot_of
from splitcom.methods.run import train
from splitcom.transports import tls

from .parties import Deployment, Party, fork_server, free_port, make_authority, wait_until

CRASHED = 9  # as in process.py
REPLACEMENT = "clinic-x"
STEPS_OF_A_ROUND = 2  # of the last client


@pytest.fixture(scope="module")
def forks() -> Any:
    return fork_server()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_authority(tmp_path_factory.mktemp("authority"))
    tls.issue_client(folder, REPLACEMENT)
    tls.issue_client(folder, "stranger")
    return folder


def admin(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["admin", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return " ".join(done.output.split())


def lines_of(network: Deployment) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (network.out / "metrics.jsonl").read_text().splitlines()]


def as_replacement(network: Deployment, index: int, name: str = REPLACEMENT, *options: object) -> Party:
    """A client with another certificate, on the rows of the one whose place it takes."""
    client = network.client(
        index, "--identity", network.authority / "clients" / f"{name}.pem",
        "--state", network.folder / f"{name}-state", *options,
    )  # fmt: skip
    client._log = network.folder / f"{name}.log"
    return client


def stalled(network: Deployment) -> list[Party]:
    """Clients of a run of which the last crashes in the second round, so that the others wait for it for ever."""
    *honest, last = network.start_server().clients()
    parties = [*(client.start() for client in honest), last.start(spoil=("crashes", STEPS_OF_A_ROUND + 1))]
    last.end(CRASHED)
    wait_until(lambda: snapshot_of(network.out).standings["client-2"].state == "gone")
    return parties


def test_list_says_how_many_clients_have_not_come_yet(
    forks: Any, authority: Path, tiny_config: Config, tmp_path: Path
) -> None:
    network = Deployment(forks, authority, tiny_config, tmp_path, port=free_port()).start_server()
    wait_until((network.out / ".admin" / "socket").exists)
    wait_until(lambda: snapshot_of(network.out).missing is not None)
    listed = admin("list", network.out)
    assert re.search(r"waiting for 3 of 3 clients since \d\d:\d\d:\d\d \(\d+ s\); here: nobody", listed)
    assert "saved" not in listed
    network.server.kill()


def test_list_says_who_is_waited_for_and_drop_frees_a_round_also_after_a_restart(
    forks: Any, authority: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = tiny_config.override({"training.rounds": 3})
    network = Deployment(forks, authority, config, tmp_path, port=free_port())
    parties = stalled(network)
    folder = network.out / ".admin"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "socket")] == [0o700, 0o600]
    listed = admin("list", network.out)
    assert re.search(r"client-2 gone +since \d\d:\d\d:\d\d \(\d+ s\)", listed), listed
    assert re.search(r"waiting for client-2 for \d+ s \(gone\)", listed) and "saved" in listed
    assert re.search(r"round \d/3 step", listed) and re.search(r"waiting \d+\.\d.* body \d+\.\d", listed), (
        listed
    )
    with pytest.raises(
        RunError, match=r"client-9 has not been seen .*there are client-0, client-1, client-2"
    ):
        admin("drop", network.out, "client-9")
    with pytest.raises(RunError, match="client-0 takes part already, and cannot have the place of client-2"):
        admin("replace", network.out, "client-2", "client-0")
    parties[0].kill()  # without it the run cannot end before client-2 has asked
    said = admin("drop", network.out, "client-2", "--reason", "its machine has burnt\x1b[2J")
    assert said == "client-2 takes no part any more; another may have its place"
    network.server.wait_for("client-2 is excluded: its machine has burnt")
    network.server.kill()  # what was decided is not forgotten
    network.server.start()
    again = parties[2].start()
    again.end(code=1)
    parties[0].start()
    for party in (*parties[:2], network.server):
        party.end()
    assert "its machine has burnt" in again.log and "\x1b" not in again.log
    result = json.loads((network.out / "result.json").read_text())
    assert result["clients"] == 2
    assert result["participation"] == {"client-0": "1-3", "client-1": "1-3", "client-2": "1"}
    rows = {line["round"]: line["eval_rows"] for line in lines_of(network)}
    assert rows[1] > rows[2] == rows[3] == result["eval"]["rows"] and result["eval"]["fell_by"] is None
    with pytest.raises(RunError, match="no server of this run answers"):
        ask(network.out, ask="list")
    assert not folder.exists()


def test_another_takes_the_place_of_a_client_and_the_result_says_who_took_part_when(
    forks: Any, authority: Path, tiny_config: Config, tmp_path: Path
) -> None:
    changes = {"training.rounds": 4, "federation.names": ["client-0", "client-1", "client-2"]}
    config = tiny_config.override(changes)
    network = Deployment(forks, authority, config, tmp_path, port=free_port())
    parties = stalled(network)
    stranger = as_replacement(network, 2, "stranger").start()
    stranger.end(code=1)
    assert "has not named it in federation.names" in stranger.log
    admin("drain", network.out)  # when a round is saved; before that nobody is let go
    said = admin("replace", network.out, "client-2", REPLACEMENT)
    assert said == f"{REPLACEMENT} may join in the place of client-2"
    network.server.end()
    assert "stopped after round 2, which is saved; go on with --resume" in network.server.log
    replacement = as_replacement(network, 2).start()
    network.server.start()
    for party in (*parties[:2], replacement, network.server):
        party.end()
    result = json.loads((network.out / "result.json").read_text())
    assert result["clients"] == 3
    assert result["participation"] == {
        "client-0": "1-4", "client-1": "1-4", "client-2": "1", REPLACEMENT: "3-4",
    }  # fmt: skip
    undisturbed = train(tiny_config.override({"training.rounds": 4}), tmp_path / "in-process").result["eval"]
    assert result["eval"]["rows"] == undisturbed["rows"]  # the same rows as at the beginning
    assert result["eval"]["loss"] < undisturbed["loss"] + 0.1 * undisturbed["fell_by"]
    sent = (tmp_path / "client-0.log").read_text() + (tmp_path / "run" / "config.toml").read_text()
    assert "client-2" in sent  # the server keeps the names
    assert not re.search(r"client-[12]", (tmp_path / "client-0.log").read_text())
