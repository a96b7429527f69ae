"""What the name of a source stands for: files, folders, data sets on the hub, configurations and splits."""

import json
import os
import sys
from types import SimpleNamespace

import pytest

from splitcom.data.sources import Source, find_source, read_source
from splitcom.errors import DataError, MissingExtraError


def values(name) -> list[dict[str, object]]:
    return [dict(columns) for _, columns in read_source(find_source(name))]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("e2e_nlg", ("e2e_nlg", None, None)),
        ("some-team/Open-Data-2.5", ("some-team/Open-Data-2.5", None, None)),
        ("Open-Data-2.5", ("Open-Data-2.5", None, None)),
        ("glue:sst2", ("glue", "sst2", None)),
        ("team/name:en-US[validation]", ("team/name", "en-US", "validation")),
        ("team/name[train[:10%]]", None),
        ("name[test]", ("name", None, "test")),
        ("gone.csv", None),
        ("gone.jsonl.gz", None),
        ("gone.xlsx", None),
        ("./gone", None),
        ("/gone", None),
        ("https://example.org/a.csv", None),
        ("a/b/gone", None),
        ("x" * 5000 + "/" * 3, None),
    ],
)
def test_what_is_not_here_is_on_the_hub_or_missing(name, found):
    if found is None:
        with pytest.raises(DataError, match="no such file or folder"):
            find_source(name)
    else:
        assert find_source(name) == Source(found[0], None, found[1], found[2])


def test_no_name_is_not_this_folder():
    with pytest.raises(DataError, match=r"data\.source is empty"):
        find_source(" ")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "rows.csv")
    with pytest.raises(DataError, match="a pipe or a device; write the rows to a file"):
        find_source(tmp_path / "rows.csv")


def test_a_file_is_itself_whatever_it_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:name[1]").mkdir()
    assert find_source("odd:name[1]").path is not None
    (tmp_path / "a.csv").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"a\.csv is here, but files have no splits"):
        find_source("a.csv[test]")
    (tmp_path / "sub").mkdir()
    assert find_source("a.csv").is_same(find_source("sub/../a.csv"))
    assert find_source("a.csv").is_same(find_source(tmp_path / "a.csv"))
    assert not find_source("sub[a]").is_same(find_source("sub"))
    assert find_source("team/x[train]").is_same(find_source("team/x"))
    assert not find_source("team/x:en").is_same(find_source("team/x:de"))
    assert not find_source("team/x").is_same(find_source("a.csv"))


def test_a_folder_of_files_is_read_in_the_order_of_their_names(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"q": name}))
    (tmp_path / "README.md").write_text("no rows")
    assert values(tmp_path) == [{"q": "a"}, {"q": "b"}]
    with pytest.raises(DataError, match=r"no file of the split 'test' among a\.jsonl, b\.jsonl"):
        values(f"{tmp_path}[test]")


def test_splits_of_a_folder_are_not_mixed(tmp_path):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test", "extra"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"q": name[:8]}))
    assert values(tmp_path) == [{"q": "train-00"}, {"q": "train-00"}]
    assert values(f"{tmp_path}[test]") == [{"q": "test"}]
    with pytest.raises(DataError, match=r"no file that can be read in this folder.*\.csv"):
        (tmp_path / "empty").mkdir()
        values(tmp_path / "empty")


def test_folders_that_datasets_has_written(tmp_path):
    datasets = pytest.importorskip("datasets")
    train, test = (datasets.Dataset.from_list([{"q": name}]) for name in ("train", "test"))
    train.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "both")
    assert values(tmp_path / "one") == values(tmp_path / "both") == [{"q": "train"}]
    assert values(f"{tmp_path}/both[test]") == [{"q": "test"}]
    with pytest.raises(DataError, match=r"no split 'dev'; write .*both\[NAME\] with test or train"):
        values(f"{tmp_path}/both[dev]")
    with pytest.raises(DataError, match=r"one split alone"):
        values(f"{tmp_path}/one[test]")
    (tmp_path / "one" / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"one: cannot be read as a saved data set"):
        values(tmp_path / "one")


def test_the_hub_extra_is_named_when_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"'e2e_nlg' is no file.*hub.*pip install 'splitcom\[hub\]'"):
        values("e2e_nlg")


def test_a_hub_data_set_is_read_by_configuration_and_split(monkeypatch):
    def load_dataset(name, config, split, trust_remote_code):
        return [{"name": name, "config": config, "split": split}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert values("someone/s.2:en[dev]") == [{"name": "someone/s.2", "config": "en", "split": "dev"}]
    assert values("glue") == [{"name": "glue", "config": None, "split": "train"}]


def test_an_unreachable_hub_is_reported(monkeypatch):
    def load_dataset(name, config, split, trust_remote_code):
        raise ConnectionError("no route\nand more")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DataError, match=r"'e2e_nlg' is no file.*no route; .*e2e_nlg\[train\].*network"):
        values("e2e_nlg")


def test_the_folder_of_a_model_is_not_taken_for_rows(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match=r"a model, not rows; .* this folder in model\.source"):
        values(tmp_path)
