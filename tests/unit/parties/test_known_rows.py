"""Rows that have changed since a run began are noticed, whatever it is of them that has changed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from splitcom.data import Row, Sample
from splitcom.errors import DataError
from splitcom.parties.known_rows import check_rows, keep_rows


def sample(sample_id: int, ids: list[int], labels: list[int] | None = None) -> Sample:
    row = Row(sample_id, "", "", {})
    return Sample(sample_id, torch.tensor(ids), torch.tensor(ids if labels is None else labels), row)


ROWS = [sample(0, [1, 2, 3]), sample(1, [4, 5, 6]), sample(2, [7, 8])]
CHANGES: dict[str, tuple[Callable[[], list[Sample]], str]] = {
    "a token": (lambda: [ROWS[0], sample(1, [4, 9, 6], [4, 5, 6]), ROWS[2]], "of 3 rows there are 1 changed, 0 gone"),
    "a label": (lambda: [ROWS[0], sample(1, [4, 5, 6], [4, 5, 9]), ROWS[2]], "of 3 rows there are 1 changed, 0 gone"),
    "what is prompt": (lambda: [ROWS[0], sample(1, [4, 5, 6], [-100, 5, 6]), ROWS[2]], "1 changed"),
    "one more": (lambda: [*ROWS, sample(3, [1])], "0 changed, 0 gone and 1 new"),
    "one less": (lambda: ROWS[1:], "0 changed, 1 gone and 0 new"),
    "the order": (lambda: [sample(0, [4, 5, 6]), sample(1, [1, 2, 3]), ROWS[2]], "the same 3 rows in another order"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_that_goes_on_is_refused_on_other_rows(tmp_path: Path, change: str) -> None:
    other, said = CHANGES[change]
    keep_rows(tmp_path / "state", {"train": ROWS})
    check_rows(tmp_path / "state", {"train": ROWS}, "give --state")
    with pytest.raises(DataError, match=rf"{said}.*bring the old data back, or give --state"):
        check_rows(tmp_path / "state", {"train": other()}, "give --state")
    check_rows(tmp_path / "state", {"train": ROWS}, "")  # the old file is back


def test_a_row_of_another_client_or_that_is_held_out_now_is_another(tmp_path: Path) -> None:
    keep_rows(tmp_path, {"a": ROWS[:2], "b": ROWS[2:]})
    with pytest.raises(DataError, match="another order"):
        check_rows(tmp_path, {"a": ROWS[:1], "b": ROWS[1:]}, "")


def test_a_run_that_has_not_begun_takes_the_rows_as_they_are_now(tmp_path: Path) -> None:
    keep_rows(tmp_path, {"train": ROWS})
    keep_rows(tmp_path, {"train": ROWS[1:]})
    check_rows(tmp_path, {"train": ROWS[1:]}, "")


def test_fingerprints_of_two_runs_have_nothing_in_common(tmp_path: Path) -> None:
    for name in ("one", "other"):
        keep_rows(tmp_path / name, {"train": ROWS})
    one, other = ((tmp_path / name / "rows.json") for name in ("one", "other"))
    assert one.read_text() != other.read_text()
    assert one.stat().st_mode & 0o777 == 0o600 and one.parent.stat().st_mode & 0o777 == 0o700


def test_they_are_kept_as_json_and_too_many_to_list_are_still_told_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_rows(tmp_path, {"a": ROWS[:2], "held out": ROWS[2:]})
    text = (tmp_path / "rows.json").read_text()
    assert json.dumps(json.loads(text)) == text and json.loads(text)["rows"]["a"].keys() == {"0", "1"}
    monkeypatch.setattr("splitcom.parties.known_rows._MOST_BYTES", 10)
    check_rows(tmp_path, {"a": ROWS[:2], "held out": ROWS[2:]}, "")
    with pytest.raises(DataError, match="they are 3 rows now, and some have changed"):
        check_rows(tmp_path, {"a": ROWS[1:], "held out": ROWS[:1]}, "")
    (tmp_path / "rows.json").write_text(text[:-5])  # damaged: the rows as they are now are taken
    monkeypatch.undo()
    check_rows(tmp_path, {"a": ROWS}, "")
    keep_rows(tmp_path, {"a": ROWS})
    with pytest.raises(DataError):
        check_rows(tmp_path, {"a": ROWS[1:]}, "")
