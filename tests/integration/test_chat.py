"""Conversations from a file to an answer: in one process, on the command line, and over a network."""

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from splitcom.cli import main
from splitcom.config import Config
from splitcom.data import asked_by
from splitcom.errors import ConfigError
from splitcom.methods.evaluate import evaluate_run, writer_of
from splitcom.methods.run import train
from splitcom.metrics.record import RunFolder
from splitcom.parties.texts import with_chat

from .parties import Deployment, fork_server, make_authority


def conversations(path: Path, number: int) -> Path:
    draw = random.Random(0)
    rows = []
    for index in range(number):
        name = draw.choice(["Alba", "Bela", "Cora", "Dana"])
        turns = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"Who is {name} number {index}?"},
            {"role": "assistant", "content": f"{name} is a place."},
        ]
        if index % 2:
            turns += [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": f"Yes, {name}."}]
        rows.append(json.dumps({"messages": turns, "clinic": f"c{index % 6}"}))
    path.write_text("\n".join(rows))
    return path


@pytest.fixture
def config(tiny_config: Config, tmp_path: Path) -> Config:
    return tiny_config.override(
        {
            "data.source": str(conversations(tmp_path / "chat.jsonl", 36)),
            "data.chat_template": "zephyr",
            "data.held_out_samples": 12,
            "data.held_out_by": "clinic",
            "training.lr": 5e-3,
            "training.rounds": 1,
            "evaluation.generate": 1,
            "evaluation.max_new_tokens": 6,
        }
    )


def test_a_run_on_conversations_learns_and_answers(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    config = config.override({"model.source": "bundled", "data.chat_template": "chatml"})
    run = train(config, tmp_path / "run")
    losses = run.result["eval"]
    assert losses["loss"] < losses["initial_loss"] - 0.1
    (sample,) = run.result["samples"]
    assert sample["prompt"].startswith("system: Be brief.\nuser: Who is ")
    assert 'format = "chat"' in RunFolder(run.folder).config_toml()
    assert evaluate_run(run.folder)["loss"] == pytest.approx(losses["loss"], abs=0.05)

    writer = writer_of(run.folder)
    asked = asked_by("Who is Alba?", "Be brief.")
    raw = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho is Alba?<|im_end|>\n<|im_start|>assistant\n"
    assert writer.write([asked]) == writer.write([raw])
    for options in ([], ["--system", "Be brief."], ["--raw"]):
        monkeypatch.setattr(
            sys, "argv", ["splitcom", "generate", str(run.folder), "--prompt", "Who is Alba?", *options]
        )
        main_exits_well()
        assert "Who is Alba?" in capsys.readouterr().out
    monkeypatch.setattr(
        sys, "argv", ["splitcom", "generate", str(run.folder), "--prompt", "x", "--raw", "--system", "y"]
    )
    with pytest.raises(SystemExit):
        main()
    assert "--system is for the chat template" in " ".join(capsys.readouterr().err.split())


def main_exits_well() -> None:
    try:
        main()
    except SystemExit as stop:
        assert not stop.code


def test_a_run_on_columns_has_no_users(tiny_config: Config, tmp_path: Path) -> None:
    run = train(tiny_config.override({"training.rounds": 1}), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"learnt from columns \(data\.format\)"):
        writer_of(run.folder).write([asked_by("x")])


def test_over_a_network_clients_read_conversations_with_the_servers_settings(
    config: Config, tmp_path: Path
) -> None:
    config = with_chat(config.override({"data.held_out_by": None, "evaluation.generate": 0}))
    expected = train(config, tmp_path / "in-process")
    forks = fork_server()
    network = Deployment(forks, make_authority(tmp_path / "authority"), config, tmp_path).start_server()
    pinned = ("--columns", "messages", "--expect", "data.chat_template=zephyr")
    dry = network.client(0, "--dry-run").start()
    dry.end()
    for text in (
        "columns    messages; clinic are not read",
        "template   zephyr",
        "learnt     the assistant's turns",
    ):
        assert text in dry.log
    refused = network.client(1, "--columns", "clinic").start()
    refused.end(code=1)
    assert "asks for the column 'messages', and --columns allows clinic alone" in refused.log
    clients = [client.start() for client in network.clients(*pinned)]
    for party in (*clients, network.server):
        party.end()
    network.assert_same_run(expected)


@pytest.mark.parametrize("argument", ["chat.jsonl", "run.toml"])
def test_a_look_at_what_the_model_sees(
    config: Config, argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "run.toml").write_text(config.to_toml())
    chosen = ["--set", "data.chat_template=chatml", "--samples", "1"]
    monkeypatch.setattr(sys, "argv", ["splitcom", "data", str(tmp_path / argument), *chosen])
    main_exits_well()
    out = capsys.readouterr().out
    assert "is a place.<|im_end|></s>»" in out and "<|im_start|>assistant\n«" in out
    assert "learnt are the assistant's turns" in out and "median" in out
    assert "conversations from messages (role, content)" in out
    assert ("client  samples" in out) == (argument == "run.toml")
