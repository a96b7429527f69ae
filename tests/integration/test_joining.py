"""Clients as processes that share a folder, are started twice, or again on other rows; and what is left on disks."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from splitcom.config import Config
from splitcom.errors import DataError, RunError
from splitcom.methods.run import train
from splitcom.server.observe import Observer

from .parties import Deployment, Party, fork_server, found, free_port, make_authority

CHANGES = {
    "flows.activation_up.codec": "temporal(0.9) > delta > int4 > zstd",
    "flows.gradient_down.codec": "delta > int8(rounding=stochastic)",
}


@pytest.fixture(scope="module")
def forks() -> Any:
    return fork_server()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_authority(tmp_path_factory.mktemp("authority"))


def joining(
    network: Deployment, forks: Any, folder: Path, index: int, *options: object, log: str = ""
) -> Party:
    """README's command, in a folder that clients share; rows for evaluation so that the in-process run is equalled.

    Without --state and --cache it finds its places below the folder.
    """
    folder.mkdir(exist_ok=True)
    name = network.names[index]
    return Party(
        forks, network.folder / f"{name}{log}.log", "join", f"localhost:{network.port}",
        "--data", network.folder / f"{name}-train.jsonl", "--held-out", network.folder / f"{name}-held-out.jsonl",
        "--identity", network.authority / "clients" / f"{name}.pem", *options, folder=folder,
    )  # fmt: skip


def joined(network: Deployment, forks: Any, folder: Path, hold: int, *options: object) -> list[Party]:
    """Three clients, of which the last begins no round from this one on: the run is at it until it is released."""
    parties = [joining(network, forks, folder, index, *options) for index in range(3)]
    for party in parties[:2]:
        party.start()
    parties[2].start(hold=hold).wait_until_held()
    return parties


def others_can_read(folder: Path) -> list[Path]:
    return [path for path in (folder, *folder.rglob("*")) if path.stat().st_mode & 0o077]


def test_three_clients_in_one_folder_have_the_bits_of_one_process_and_leave_nothing(
    forks: Any, authority: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = tiny_config.override(CHANGES | {"references.store": "file", "references.limit_mb": 1})
    expected = train(config, tmp_path / "in-process")
    network = Deployment(forks, authority, config, tmp_path, port=free_port()).start_server()
    shared = tmp_path / "shared"
    parties = joined(network, forks, shared, 1)
    twin = joining(network, forks, shared, 0, log="-twin").start()
    twin.end(code=1)
    assert f"in use by process {parties[0].process.pid} on" in twin.log
    assert "client-0 takes part in this run there already" in twin.log
    states = shared / "runs" / "client"
    assert not others_can_read(states) and list(states.rglob("rows.json"))
    parties[2].release()
    for party in (*parties, network.server):
        party.end()
    network.assert_same_run(expected)
    assert {path.name for path in states.rglob("*") if path.is_file()} == {"joined.json"}
    assert not others_can_read(states)
    assert not others_can_read(network.out / "checkpoint")
    assert not found(network.out, "references*")
    (state,) = found(network.out, "state.safetensors")
    assert not [name for name in load_file(state) if name.startswith("labels")]
    cache = shared / "home" / ".cache" / "splitcom"
    assert len(list(cache.iterdir())) == 1 and not others_can_read(cache)


def test_a_killed_client_goes_on_and_what_it_has_left_is_gone_in_the_end(
    forks: Any, authority: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = tiny_config.override(CHANGES)
    network = Deployment(forks, authority, config, tmp_path, port=free_port()).start_server()
    shared = tmp_path / "shared"
    parties = joined(network, forks, shared, 2)
    parties[1].kill()
    network.server.kill()
    (front,) = found(network.out, "front")
    assert not others_can_read(front.parent)
    data = tmp_path / "client-1-train.jsonl"
    rows = data.read_text().splitlines()
    data.write_text(
        "\n".join([json.dumps(json.loads(rows[0]) | {"text": "other words"}), *rows[1:], rows[0]])
    )
    changed = joining(network, forks, shared, 1, log="-changed").start()
    network.server.start()
    changed.end(code=1)
    assert f"of {len(rows) + 2} rows there are 1 changed, 0 gone and 1 new" in changed.log
    assert "give another folder with --state" in changed.log
    data.write_text("\n".join(rows))
    parties[1].start()
    parties[2].release()
    for party in (*parties, network.server):
        party.end()
    result = network.assert_same_run(train(config, tmp_path / "in-process"))
    assert result["repeated_bytes"] > 0
    assert {path.name for path in (shared / "runs").rglob("*") if path.is_file()} == {"joined.json"}
    assert not found(network.out, "front")
    again = joining(network, forks, shared, 1, "--patience", 0.5, log="-again").start()
    again.end()
    assert "nothing is left to do" in again.log


def test_a_client_sees_what_leaves_it_and_refuses_a_server_that_asks_for_more(
    forks: Any, authority: Path, tiny_config: Config, tmp_path: Path
) -> None:
    network = Deployment(forks, authority, tiny_config, tmp_path, port=free_port()).start_server()
    shared = tmp_path / "shared"
    tried = {
        "dry": ("--dry-run",),
        "columns": ("--columns", "mr,domain"),
        "expect": ("--expect", "data.prompt={question} =>"),
        "small": ("--max-download-mb", 0.001),
    }
    parties = {
        log: joining(network, forks, shared, 0, *options, log=f"-{log}").start()
        for log, options in tried.items()
    }
    for log, party in parties.items():
        party.end(code=0 if log == "dry" else 1)
    row = json.loads((tmp_path / "client-0-train.jsonl").read_text().splitlines()[0])
    for line in (
        "columns    mr, text; domain are not read",
        f"a row      {row['mr'] + ' =>'!r} | {row['text']!r}",
        "activations of every token after block 2 (temporal",
        "labels (the token ids of 'text')",
        "all is well; leave out --dry-run to take part",
    ):
        assert line in parties["dry"].log
    assert "asks for the column 'text', and --columns allows domain, mr alone" in parties["columns"].log
    assert "data.prompt = '{mr} =>', and --expect says '{question} =>'" in parties["expect"].log
    assert "at most 0.0 MB are taken; if that is right, raise --max-download-mb" in parties["small"].log
    assert not found(shared, "round-*") and "is connected from" not in network.server.log

    allowed = ("--columns", "text,mr", "--expect", "data.prompt={mr} =>", "--expect", "model.tail_blocks=0")
    clients = joined(network, forks, shared, 1, *allowed)
    for party in (*clients, network.server):
        party.kill()
    for path in (tmp_path / "config.toml", network.out / "config.toml"):  # under the same identifier
        path.write_text(path.read_text().replace('response = "text"', 'response = "mr"'))
    network.server.start()
    again = joining(network, forks, shared, 0, log="-again").start()
    again.end(code=1)
    assert (
        "than when this client joined the run: data.response was 'text', is 'mr'; nothing has been sent"
        in again.log
    )
    network.server.kill()


def test_on_a_terminal_whoever_sits_there_is_asked(
    forks: Any, authority: Path, tiny_config: Config, tmp_path: Path
) -> None:
    network = Deployment(forks, authority, tiny_config, tmp_path).start_server()
    asked = joining(network, forks, tmp_path / "shared", 0).start(say=("n\n",))
    asked.end(code=1)
    assert "take part? [y/N]" in asked.log and "labels (the token ids of 'text')" in asked.log
    assert "not joined: nothing has been sent" in asked.log
    network.server.kill()


def test_two_runs_do_not_share_a_folder(
    forks: Any, authority: Path, tiny_config: Config, tmp_path: Path
) -> None:
    network = Deployment(forks, authority, tiny_config, tmp_path).start_server()
    twin = Party(
        forks, tmp_path / "twin.log", "serve", tmp_path / "config.toml", "--resume", "--listen", "127.0.0.1:0",
        "--authority", authority, "--out", network.out,
    ).start()  # fmt: skip
    twin.end(code=1)
    assert f"in use by process {network.server.process.pid}" in twin.log
    with pytest.raises(RunError, match=r"in use by process .*choose another folder with --out"):
        train(tiny_config, network.out, resume=True)
    network.server.kill()
    network.server.start()  # the lock has died with its holder
    network.server.wait_for("listening", count=2)
    network.server.kill()


def test_train_goes_on_with_the_rows_that_it_began_with_or_not_at_all(
    tiny_config: Config, tmp_path: Path
) -> None:
    rows = [{"mr": f"name[{index}]", "text": f"It is number {index}."} for index in range(40)]
    data = tmp_path / "rows.jsonl"

    def write(some: list[dict[str, str]]) -> None:
        data.write_text("\n".join(map(json.dumps, some)))

    write(rows)
    config = tiny_config.override({"data.source": str(data), "data.samples": None, "training.rounds": 3})

    class Stopping(Observer):
        def on_round(self, lines: Any) -> None:
            if lines[0]["round"] == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", observers=[Stopping()])
    write([*rows[:7], {"mr": "name[7]", "text": "It is another."}, *rows[8:]])
    with pytest.raises(DataError, match=r"of 40 rows there are 1 changed.*another folder with --out"):
        train(config, tmp_path / "run", resume=True)
    write(rows)
    assert train(config, tmp_path / "run", resume=True).result["rounds"] == 3
