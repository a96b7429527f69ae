"""Clients as processes that fall silent, fail, or crash again and again: the others end the run, and it says so."""

import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from splitcom.config import Config
from splitcom.methods.admin import snapshot_of
from splitcom.methods.run import train

from .parties import Deployment, Party, fork_server, free_port, make_authority, wait_until

CRASHED = 9  # as in process.py
SPOILT = 2  # the last client, which nobody's bits depend on once it is gone


@pytest.fixture(scope="module")
def forks() -> Any:
    return fork_server()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_authority(tmp_path_factory.mktemp("authority"))


def deployed(
    forks: Any, authority: Path, config: Config, folder: Path
) -> tuple[Deployment, list[Party], Party]:
    """A server, the clients that nothing happens to, and the other one, which is not started."""
    network = Deployment(forks, authority, config, folder, port=free_port())
    network.start_server(clock=network.clock)
    *honest, other = network.clients()
    return network, [client.start() for client in honest], other


def result_of(network: Deployment) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((network.out / "result.json").read_text())
    return result


@pytest.mark.parametrize(
    "scheduling",
    [
        {},
        {"federation.deadline_s": 1.0},
        {"federation.scheduling": "asynchronous", "training.rounds": 3},
    ],
    ids=["lockstep", "deadline", "asynchronous"],
)
def test_a_client_that_is_connected_and_silent_is_dropped(
    forks: Any, authority: Path, tiny_config: Config, tmp_path: Path, scheduling: dict[str, Any]
) -> None:
    config = tiny_config.override({"federation.step_timeout_s": 1000.0, **scheduling})
    network, honest, other = deployed(forks, authority, config, tmp_path)
    other.start(spoil=("silent", 2)).wait_for("silent from now on")
    name = network.names[SPOILT]
    wait_until(lambda: (snapshot_of(network.out).standings[name].waited_s or 0.0) > 0.1)
    snapshot = snapshot_of(network.out)
    assert snapshot.clients[name].connected and snapshot.standings[name].state == "training"
    network.pass_time(1001.0, name)  # the others have answered by then, and are not waited for
    for party in (*honest, network.server):
        party.end()
    assert re.search(rf"{name} has been silent for 10\d\d[.\d]* s and is dropped", network.server.log)
    result = result_of(network)
    assert result["clients"] == 2 and name not in result["participation"]
    assert result["eval"]["loss"] < result["eval"]["initial_loss"]
    other.kill()


def test_a_client_that_crashes_again_and_again_is_excluded(
    forks: Any, authority: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = tiny_config.override({"federation.max_restarts": 2})
    network, honest, other = deployed(forks, authority, config, tmp_path)
    for _ in range(3):
        other.start(spoil=("crashes", 2)).end(CRASHED)
    other.start().end(code=1)
    assert "begun anew 3 times since the last saved round" in other.log
    for party in (*honest, network.server):
        party.end()
    result = result_of(network)
    assert result["clients"] == 2 and network.names[SPOILT] not in result["participation"]
    assert result["repeated_bytes"] > 0


def test_a_client_that_ends_with_an_error_and_comes_back_changes_no_bit(
    forks: Any, authority: Path, tiny_config: Config, tmp_path: Path
) -> None:
    network, honest, other = deployed(forks, authority, tiny_config, tmp_path)
    other.start(spoil=("fails", 3)).end(code=1)  # in the second round
    name = network.names[SPOILT]
    network.server.wait_for(f"{name} has failed, and is waited for as if it were gone: .*No space left")
    standing = snapshot_of(network.out).standings[name]
    assert standing.state == "failed" and "No space left" in standing.reason
    other.start()
    for party in (*honest, other, network.server):
        party.end()
    result = network.assert_same_run(train(tiny_config, tmp_path / "in-process"))
    assert result["clients"] == 3 and set(result["participation"].values()) == {"1-2"}


def test_a_round_samples_a_part_of_all_clients_and_ends_with_as_many_as_it_must(
    forks: Any, authority: Path, tiny_config: Config, tmp_path: Path
) -> None:
    changes = {
        "training.rounds": 5,
        "federation.sample": 0.67,  # two of three, and of two that are left
        "federation.min_clients": 2,
        "federation.drop_after_s": 1000.0,
    }
    network = Deployment(forks, authority, tiny_config.override(changes), tmp_path, port=free_port())
    network.start_server(clock=network.clock)
    first, second, third = network.clients()
    first.start(), second.start(hold=4), third.start(hold=2)
    for party, name in ((third, "client-2"), (second, "client-1")):
        party.wait_until_held()
        party.kill()
        network.pass_time(1001.0, name)
        network.server.wait_for(rf"{name} has been gone for 10\d\d[.\d]* s and is dropped")
        network.pass_time(1001.0)  # while the server waits for it to come back
    wait_until(lambda: not Path(*network.clock).exists())
    time.sleep(0.5)  # one client alone ends no round
    assert "round 4 of 5 is done" not in network.server.log and network.server.process.is_alive()
    second.start()
    for party in (first, second, network.server):
        party.end()
    lines = [json.loads(line) for line in (network.out / "metrics.jsonl").read_text().splitlines()]
    updates = Counter(line["round"] for line in lines if line["round"] and line["updates"])
    assert updates == dict.fromkeys(range(1, 6), 2)
    assert result_of(network)["participation"]["client-0"].endswith("5")
