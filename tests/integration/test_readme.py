"""The Python of the README and of the notebook runs as it stands."""

import json
import re
from pathlib import Path

import pytest
from peft import PeftModel

import splitcom
from splitcom.models import load_model

README = Path(__file__).parents[2] / "README.md"


def test_the_python_example_runs(tiny_config, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.strip().splitlines()) <= 10
    (tmp_path / "run.toml").write_text(tiny_config.to_toml())
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    PeftModel.from_pretrained(load_model(tiny_config.model.source), str(tmp_path / "my-adapter"))


@pytest.mark.parametrize("page", ["how-to", "tutorials/first-run"])
def test_the_python_of_the_documents_runs(page, tiny_model, tmp_path, monkeypatch):
    """As it stands, but for a smaller model and a single round."""
    text = (README.parent / "docs" / f"{page}.md").read_text(encoding="utf-8")
    small = {"model.source": str(tiny_model), "training.rounds": 1, "evaluation.generate": 0}
    trained = splitcom.train
    monkeypatch.setattr(
        splitcom, "train", lambda config, *given, **named: trained(config.override(small), *given, **named)
    )
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for code in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        exec(compile(code, page, "exec"), names)
    assert names["run"].result["rounds"] == 1


def test_the_notebook_runs(tmp_path, monkeypatch):
    notebook = json.loads((README.parent / "docs" / "first.ipynb").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "first.ipynb", "exec"), names)
    assert len(names["losses"]) == 3 and names["run"].result["eval"]["fell_by"] > 0


def test_the_toml_example_is_a_configuration():
    from splitcom.config import Config

    (text,) = re.findall(r"```toml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    config = Config.from_toml(text)
    assert config.partition.column == "clinic" and config.data.prompt == "{question} =>"


def test_every_public_name_is_there():
    assert all(getattr(splitcom, name) is not None for name in splitcom.__all__)
    assert dir(splitcom) == sorted(splitcom.__all__)
