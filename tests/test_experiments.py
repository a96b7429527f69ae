"""The data of the experiments can be fetched."""

import csv
import json
import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1] / "experiments"


def test_data_are_written_as_the_experiments_name_them(tmp_path: Path) -> None:
    fetch = runpy.run_path(str(ROOT / "data.py"))["fetch"]
    asked = []

    def load(name, configuration, split, revision):
        asked.append((name, split))
        keys = {"openai/gsm8k": ("question", "answer"), "stanfordnlp/sst2": ("idx", "sentence", "label")}
        return [dict.fromkeys(keys.get(name, ("meaning_representation", "human_reference")), 'a "b", ü\tc')]

    written = fetch(tmp_path, load)
    assert len(written) == len(asked) == 7 and not list(tmp_path.rglob("*.partial"))
    assert json.loads((tmp_path / "data/gsm8k/test.jsonl").read_text())["answer"] == 'a "b", ü\tc'
    with (tmp_path / "data/e2e_nlg/trainset.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [dict.fromkeys(("mr", "ref"), 'a "b", ü\tc')]
    with (tmp_path / "data/sst2/dev.tsv").open(newline="") as file:
        assert list(csv.DictReader(file, delimiter="\t")) == [
            dict.fromkeys(("sentence", "label"), 'a "b", ü\tc')
        ]
    named = {
        name
        for path in ROOT.rglob("*.toml")
        for name in re.findall(r'shared/assets/(data/[^"\s]+)"', path.read_text(encoding="utf-8"))
    }
    assert named <= {path.relative_to(tmp_path).as_posix() for path in written}
    assert fetch(tmp_path, load) == [] and len(asked) == 7
