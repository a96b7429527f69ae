"""The data of the experiments can be fetched, and what their scripts take from the package is there."""

import ast
import csv
import importlib
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

from splitcom.config import Config

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


def taken_by(script: Path) -> Iterator[tuple[str, str]]:
    """Modules of the package and the names in them that a script imports, also within functions."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "splitcom":
            yield from ((str(node.module), alias.name) for alias in node.names)


SCRIPTS = sorted((*ROOT.rglob("*.py"), *ROOT.parent.glob("benchmarks/*.py")))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_what_a_script_takes_from_the_package_is_there(script: Path) -> None:
    for module, name in taken_by(script):
        found = importlib.import_module(module)
        if not hasattr(found, name):
            importlib.import_module(f"{module}.{name}")


def test_a_hostile_client_of_the_experiment_does_harm(tiny_config: Config) -> None:
    poison = runpy.run_path(str(ROOT / "poison.py"))
    clean, poisoned = (poison["run"](tiny_config, "sign flipped × 5", hostile) for hostile in (0, 1))
    assert clean["loss"] < clean["before"] == poisoned["before"] and clean["loss"] < poisoned["loss"]
    assert poisoned["against_others"]["2 client-2"]["update_cosine"] < -0.15
