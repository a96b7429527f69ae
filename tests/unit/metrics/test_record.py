"""metrics.jsonl is appended to; only where a round is written again, what there was from it on goes."""

import json
from pathlib import Path

import pytest

from splitcom.errors import RunError
from splitcom.metrics.record import RunFolder


def line(round_index: int, client: str = "a", **more: object) -> dict[str, object]:
    return {"round": round_index, "client": client, **more}


def written(folder: RunFolder) -> list[dict[str, object]]:
    return [json.loads(text) for text in (folder.path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.begin("seed = 1")
    return folder


def test_a_round_that_is_repeated_takes_the_place_of_all_from_it_on(folder: RunFolder) -> None:
    for index in range(4):
        folder.append_metrics([line(index, "a"), line(index, "b")])
    folder.append_metrics([line(2, "b", again=True)])
    folder.append_metrics([])
    folder.append_metrics([line(3)])
    expected = [line(i, c) for i in range(2) for c in "ab"] + [line(2, "b", again=True), line(3)]
    assert written(folder) == expected


@pytest.mark.parametrize("torn", [b'{"round": 1, "cli', b"\0" * 20, b"[]\n", b'{"round": 1}'])
def test_what_a_crash_has_left_half_written_goes(folder: RunFolder, torn: bytes) -> None:
    folder.append_metrics([line(0), line(1)])
    with (folder.path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    resumed = RunFolder(folder.path)
    resumed.append_metrics([line(2)])
    assert written(resumed) == [line(0), line(1), line(2)]


def test_what_is_there_is_not_read_again_for_each_round(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.append_metrics([line(0)])
    monkeypatch.setattr(json, "loads", None)
    for index in range(1, 4):
        folder.append_metrics([line(index)])


@pytest.mark.parametrize("content", ["{", "[]", '{"round": 2}', '{"rounds": null}', "\x00"])
def test_a_damaged_result_is_told_from_none_and_from_one_that_is_whole(
    folder: RunFolder, content: str
) -> None:
    assert folder.result() is None
    folder.write_result({"rounds": 2})
    assert folder.result() == {"rounds": 2}
    (folder.path / "result.json").write_text(content)
    with pytest.raises(RunError, match=r"result\.json: damaged .*; remove it, and `splitcom train --resume`"):
        folder.result()
