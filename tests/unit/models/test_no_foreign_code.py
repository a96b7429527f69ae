"""Nothing that is loaded by name or folder brings code of its own: nobody is asked, and nothing is run."""

import ast
import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import splitcom
from splitcom.errors import ModelError
from splitcom.models import load_config, load_front, load_tokenizer
from splitcom.models.front import plausible_bytes

LOADERS = {"from_pretrained", "load_dataset", "from_config"}
WITHOUT_CLASSES = {
    "PeftModel",
    "AnyPeftConfig",
    "LoraConfig",
    "GenerationConfig",
}  # these load numbers alone, whatever the folder says


def calls() -> Iterator[tuple[str, ast.Call]]:
    root = Path(splitcom.__file__).parent
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            if not isinstance(called, ast.Attribute) or called.attr not in LOADERS:
                continue
            if ast.unparse(called.value) not in WITHOUT_CLASSES:
                yield f"{path.relative_to(root)}:{node.lineno}", node


def test_every_loader_is_told_to_trust_no_code() -> None:
    found = dict(calls())
    assert len(found) >= 4
    for where, call in found.items():
        trust = {word.arg: ast.unparse(word.value) for word in call.keywords}.get("trust_remote_code")
        assert trust == "False", f"{where}: {ast.unparse(call)}"


@pytest.fixture
def hostile(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def asked(*arguments: object) -> str:
        raise AssertionError("somebody was asked")

    monkeypatch.setattr("builtins.input", asked)
    folder = tmp_path / "hostile"
    shutil.copytree(tiny_model, folder)
    (folder / "evil.py").write_text("raise SystemExit('run')")
    return folder


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_code_that_a_configuration_names_is_neither_asked_for_nor_run(hostile: Path) -> None:
    for name in ("evil.Model", "somebody/evil--evil.Model"):
        change(hostile / "config.json", auto_map={"AutoConfig": name, "AutoModelForCausalLM": name})
        assert load_front(hostile, 1)  # as of the family that transformers has
        change(hostile / "config.json", model_type="evil")
        with pytest.raises(ModelError):
            load_config(hostile)
        change(hostile / "config.json", model_type="llama")
    assert not [module for module in sys.modules if "evil" in module]


def test_code_that_a_tokenizer_names_is_neither_asked_for_nor_run(hostile: Path) -> None:
    change(
        hostile / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["somebody/evil--evil.T", None]},
        tokenizer_class="Evil",
    )
    with contextlib.suppress(ModelError):
        load_tokenizer(hostile)
    assert not [module for module in sys.modules if "evil" in module]


def test_attention_from_the_hub_is_refused(hostile: Path) -> None:
    change(hostile / "config.json", attn_implementation="somebody/evil")
    with pytest.raises(ModelError, match="would be code from the hub"):
        load_config(hostile)


def test_the_weights_of_a_front_can_be_as_large_as_its_configuration_says(
    tiny_model: Path, hostile: Path
) -> None:
    (hostile / "model.safetensors").unlink()
    small = plausible_bytes(hostile, 1)
    assert small < plausible_bytes(hostile, 2) < plausible_bytes(hostile, 2, 1) < small + (1 << 24)
    change(hostile / "config.json", num_hidden_layers=10**9)
    with pytest.raises(ModelError, match="1000000000 blocks"):
        plausible_bytes(hostile, 1)
