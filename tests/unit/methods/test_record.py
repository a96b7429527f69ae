"""The record of a run: every round's lines once, also of a round that was repeated."""

import json

import pytest

from splitcom.errors import RunError
from splitcom.methods.record import Record
from splitcom.metrics.record import RunFolder


def test_lines_of_a_repeated_round_take_the_place_of_the_first(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.begin("")
    record = Record(folder)
    for index, loss in ((0, 3.0), (1, 2.5), (2, 2.0), (2, 1.0), (1, 2.25)):
        record.on_round([{"round": index, "client": name, "loss": loss} for name in "ab"])
    record.on_round([])
    lines = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["round"], line["client"], line["loss"]) for line in lines] == [
        (0, "a", 3.0),
        (0, "b", 3.0),
        (1, "a", 2.25),
        (1, "b", 2.25),
    ]


def test_a_run_that_cannot_be_recorded_ends(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RunError, match="cannot write the run folder"):
        Record(RunFolder(tmp_path / "run")).on_round([{"round": 0}])
    assert Record.is_essential


def test_a_folder_without_a_run_says_what_to_name(tmp_path):
    with pytest.raises(
        RunError, match="no run to be found here; name the folder that a run was given as --out"
    ):
        RunFolder(tmp_path).config_toml()
    RunFolder(tmp_path / "splitcom-seed0").begin("")
    with pytest.raises(RunError, match=r"there are runs in it: name one, such as .*splitcom-seed0"):
        RunFolder(tmp_path).config_toml()


def test_a_folder_that_is_no_run_cannot_be_continued(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(RunError, match=r"exists, and is no run; choose another"):
        RunFolder(tmp_path).refuse_if_used()
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(
        RunError, match="this run folder exists; continue it with --resume, or choose another"
    ):
        RunFolder(tmp_path).refuse_if_used()
