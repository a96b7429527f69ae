"""What messages tell people to do can be done: settings, options, commands and extras that they name are real.

All text of the package but docstrings is read from its source; what is filled in when it runs stands as "…".
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import typer
from pydantic import BaseModel

from splitcom.cli import app
from splitcom.config import Config
from splitcom.engines import ENGINES
from splitcom.errors import MissingExtraError, SpecError, UnknownReference

from .sources import TREES

REPOSITORY = Path(__file__).parents[1]

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
COMMAND = re.compile(r"`splitcom ([a-z]+)(?: ([a-z]+))?")
EXTRA = re.compile(r"splitcom\[([\w,]+)\]")
NAME = re.compile(
    r"(?<![\w./{\[-])[a-z]+(?:_[a-z]+)*(?:\.[a-z_]+)+(?![\w/(])|(?<![\w./{-])[a-z]+(?:_[a-z]+)+(?![\w./(])"
)
REMEDY = re.compile(r"\b(?:set|raise|lower|leave out) ([a-z_]+(?:\.[a-z_]+)*)")
VALUE = re.compile(r"\b([a-z_]+(?:\.[a-z_]+)*) = '([^'…]+)'")

ORDINARY = {
    "aside",
    "another",
    "it",
    "on",
    "one",
    "that",
    "the",
    "them",
    "this",
}  # words after "set", "lower", ...
NO_SETTINGS = {
    "e.g",
    # what other packages and the wire format call so
    "adapter_config.json", "adapter_model.safetensors", "config.json", "hidden_states", "num_hidden_layers",
    "resize_token_embeddings", "save_pretrained", "tie_word_embeddings",
    # arguments of codecs and of the package's own functions
    "add_lora", "chunk_bytes", "dead_zone", "limit_bytes", "min_per_client", "window_bytes",
}  # fmt: skip


def paths(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All keys of the tree of settings, dotted, sections included."""
    for name, field in section.model_fields.items():
        yield prefix + name
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from paths(kind, f"{prefix}{name}.")


def strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Each text of a module with its line, docstrings left out; parts that are filled in are "…"."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and isinstance(node.body[0], ast.Expr)
    }
    pieces = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    inside = docstrings | pieces
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def raised(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Each text inside of an exception that is raised."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            yield from strings(node.exc)


@cache
def all_texts() -> list[tuple[str, str]]:
    """Every text of the package, and where it is."""
    return [(f"{module}:{line}", text) for module, tree in TREES.items() for line, text in strings(tree)]


@cache
def raised_texts() -> list[tuple[str, str]]:
    """Every text of an exception that the package raises, and where it is."""
    return [(f"{module}:{line}", text) for module, tree in TREES.items() for line, text in raised(tree)]


SETTINGS = set(paths(Config))
LEAVES = {path.rpartition(".")[2] for path in SETTINGS}


def choices() -> dict[str, tuple[str, ...]]:
    """The words that a setting may be, by its last name, of those that are one of several."""
    found: dict[str, tuple[str, ...]] = {"kind": tuple(ENGINES)}
    sections = [field.annotation for field in Config.model_fields.values()]
    for section in [kind for kind in sections if isinstance(kind, type) and issubclass(kind, BaseModel)]:
        for name, field in section.model_fields.items():
            if get_origin(field.annotation) is Literal:
                found[name] = (*found.get(name, ()), *get_args(field.annotation))
    return found


CHOICES = choices()
VALUES = {word for words in CHOICES.values() for word in words}


def options(command: Any) -> set[str]:
    """Every option of a command and of those below it."""
    own = {option for parameter in command.params for option in parameter.opts}
    return own.union(*(options(below) for below in getattr(command, "commands", {}).values()))


def invented_settings(text: str) -> set[str]:
    """What looks like a setting in a message, but is none."""
    named = set(NAME.findall(text)) - SETTINGS - LEAVES - VALUES - NO_SETTINGS
    remedies = set(REMEDY.findall(text)) - SETTINGS - LEAVES - ORDINARY
    return named | remedies | invented_keys(text)


def invented_keys(text: str) -> set[str]:
    """What begins with a section of the settings, but is no key in it."""
    sections = "|".join(Config.model_fields)
    dotted = set(re.findall(rf"(?<![\w./])(?:{sections})\.[a-z_]+", text)) - SETTINGS
    return {name for name in dotted if not name.endswith((".json", ".safetensors"))}


def test_settings_in_errors_are_real():
    found = {where: invented for where, text in raised_texts() if (invented := invented_settings(text))}
    assert not found


def test_settings_in_all_texts_are_real():
    prose = [(where, text) for where, text in all_texts() if " " in text]
    assert not {where: invented for where, text in prose if (invented := invented_keys(text))}


def test_what_is_invented_is_seen():
    for text in (
        "set shape to csv",
        "no column (asked for by response_column)",
        "data.formats = 3",
        "raise tokens",
    ):
        assert invented_settings(text), text
    assert not invented_settings(
        "set data.max_tokens = 3; scheduling = 'synchronous' waits; see config.json, set that"
    )
    assert len(raised_texts()) > 200 and len(SETTINGS) > 60


def test_values_in_errors_are_possible():
    pairs = [
        (where, name.rpartition(".")[2], value)
        for where, text in raised_texts()
        for name, value in VALUE.findall(text)
    ]
    assert pairs
    assert not [pair for pair in pairs if pair[1] in CHOICES and pair[2] not in CHOICES[pair[1]]]


def test_options_in_texts_are_real():
    real = options(typer.main.get_command(app)) | {"--help"}
    found = [(where, option) for where, text in all_texts() for option in OPTION.findall(text)]
    assert len(found) > 20
    assert not [pair for pair in found if pair[1] not in real]


def test_commands_in_texts_are_real():
    commands = typer.main.get_command(app).commands
    found = [(where, *names) for where, text in all_texts() for names in COMMAND.findall(text)]
    assert found
    for where, command, below in found:
        assert command in commands, where
        assert not below or below in getattr(commands[command], "commands", {below}), where


def test_extras_in_texts_are_real():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [
        (where, extra)
        for where, text in all_texts()
        for names in EXTRA.findall(text)
        for extra in names.split(",")
    ]
    for module, tree in TREES.items():
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "MissingExtraError":
                assert isinstance(call.args[1], ast.Constant), module
                named.append((module, call.args[1].value))
    assert {extra for _, extra in named} >= {"hub"}
    assert not [pair for pair in named if pair[1] not in project["optional-dependencies"]]


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (
            MissingExtraError("x", "hub", ImportError("no y")),
            "x needs the extra 'hub' (no y): pip install 'splitcom[hub]'",
        ),
        (SpecError("unknown stage", "abc", 1), "unknown stage\n  abc\n   ^"),
        (UnknownReference([3]), "no matching reference for sample ids [3]"),
    ],
)
def test_errors_that_make_their_own_text_do(error, wanted):
    assert str(error) == wanted
