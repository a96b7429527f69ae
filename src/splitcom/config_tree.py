"""Configurations as trees: TOML files that extend one another, presets and dotted changes; knows no other key."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitcom.errors import ConfigError

_ACTIVATION = "predict > klt(64) > uniform({}, dead_zone=0.3) > range"
_GRADIENT = "predict(window=0, rank=0) > klt(64, threshold=0.3, centre=sum) > uniform({}) > range"

PRESETS = {
    "quality": (_ACTIVATION.format(0.5), _GRADIENT.format(2)),
    "balanced": (_ACTIVATION.format(0.75), _GRADIENT.format(4)),
    "tiny": (_ACTIVATION.format(1.5), _GRADIENT.format(8)),
}
"""The codecs of activations and of gradients that `preset = "balanced"` stands for, both ways."""


def parse_assignment(text: str) -> tuple[str, Any]:
    """Read `a.b=c` as given on the command line: the value is TOML, or text where it is not.

    >>> parse_assignment("training.rounds=3"), parse_assignment("model.source=bundled")
    (('training.rounds', 3), ('model.source', 'bundled'))
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: expected key=value, such as training.rounds=3")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def read_tree(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a file's tree on top of the one it extends."""
    if path.resolve() in extended_by:
        raise ConfigError(f"{path}: extends = ...: the file extends itself; take the key out of one of them")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; `splitcom train --help` shows how to start one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    tree = read_text(text, str(path))
    base = tree.pop("extends", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(f"{path}: extends = {base!r}: expected the path of a TOML file")
    return _layered(read_tree(path.parent / base, (*extended_by, path.resolve())), tree)


def _layered(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: _layered(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping)
    }
    return {**below, **above, **both}


def read_text(text: str, where: str) -> dict[str, Any]:
    """The tree of a TOML text without what it extends; its preset is put in place."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not valid TOML: {error}") from error
    if "preset" not in tree:
        return tree
    return _layered(_preset(tree.pop("preset"), where), tree)


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the tree with dotted keys changed; a `preset` among them comes before the others."""
    copied, changes = _copied(tree), dict(changes)
    if "preset" in changes:
        copied = _layered(copied, _preset(changes.pop("preset"), "override"))
    for dotted, value in changes.items():
        *sections, key = dotted.split(".")
        node = copied
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{dotted}: '{section}' is a value, not a section")
        node[key] = value
    return copied


def _copied(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def _preset(name: Any, where: str) -> dict[str, Any]:
    """The part of a tree that a preset stands for."""
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f"{where}: preset = {name!r}: there are {', '.join(PRESETS)}")
    activation, gradient = PRESETS[name]
    codecs = {
        "activation_up": activation,
        "activation_down": activation,
        "gradient_up": gradient,
        "gradient_down": gradient,
    }
    return {"flows": {flow: {"codec": codec} for flow, codec in codecs.items()}}
