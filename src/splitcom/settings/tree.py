"""Configurations as trees: TOML files that extend one another, presets and dotted changes; knows no other key."""

import logging
import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from re import fullmatch
from typing import Any

from splitcom.errors import ConfigError
from splitcom.settings.explain import at
from splitcom.settings.presets import AUTO, DEFAULT, EVALUATION, PRESETS, Tree, let_go

_LOG = logging.getLogger(__name__)
_ROWS = {".csv", ".tsv", ".json", ".jsonl", ".parquet", ".gz"}  # of files that are given in place of settings


def parse_assignment(text: str, option: str = "--set") -> tuple[str, Any]:
    """Read `a.b=c` as given to an option of the command line: the value is TOML, or text if it is not.

    >>> parse_assignment("training.rounds=3"), parse_assignment("model.source=bundled")
    (('training.rounds', 3), ('model.source', 'bundled'))
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{option} {text}: expected key=value, such as training.rounds=3")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), value.strip()


def flat(tree: Mapping[str, Any], prefix: str = "") -> Tree:
    """A tree by dotted key.

    >>> flat({"seed": 0, "training": {"lr": 0.1}})
    {'seed': 0, 'training.lr': 0.1}
    """
    found: Tree = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def read_tree(path: Path, settle: Callable[[Tree, Path], Tree], extended_by: tuple[Path, ...] = ()) -> Tree:
    """Read a file's tree on top of the one it extends; `settle` makes each file's own independent of where it lies."""
    path = path.expanduser()
    if path.suffix in _ROWS:
        raise ConfigError(
            f"{path}: rows, not settings; `splitcom init {path}` writes a settings file for them"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; `splitcom init FILE` writes one for your rows") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if path.resolve() in extended_by:
        raise ConfigError(f"{path}: extends = ...: the file extends itself; take the key out of one of them")
    tree = settle(read_text(text, str(path)), path)
    base = tree.pop("extends", False)
    if base is False:
        return tree
    if not isinstance(base, str):
        raise ConfigError(f"{path}: extends = {base!r}: expected the path of a TOML file")
    below = read_tree(path.parent / Path(base).expanduser(), settle, (*extended_by, path.resolve()))
    let_go(below, flat(tree).keys())
    return _layered(below, tree)


def _layered(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    both = {
        key: _layered(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping)
    }
    return {**below, **above, **both}


def read_text(text: str, where: str) -> Tree:
    """The tree of a TOML text without what it extends; its preset is put in place."""
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # an integer of 5,000 digits, 1,000 lists in one another
        raise ConfigError(f"{where}: not valid TOML: {error}") from error
    return with_preset(tree, where)


def with_preset(tree: Tree, where: str) -> Tree:
    """The tree with what its preset stands for, where it does not say something else itself."""
    if "preset" not in tree:
        return tree
    flows, name = tree.get("flows"), tree["preset"]
    codecs = _flows_with("codec", flows)
    _explain_controllers(
        name, where, [flow for flow in _flows_with("controller", flows) if flow not in codecs]
    )
    return _layered(_preset(name, where, given=codecs), tree)


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any], where: str = "--set") -> Tree:
    """A copy of the tree with dotted keys changed; a `preset` among them comes before the others.

    `where` the changes were given is what errors say.
    """
    copied, changes = _copied(tree), dict(changes)
    if "preset" in changes:
        given = {dotted.split(".")[1] for dotted in changes if fullmatch(r"flows\.\w+\.codec", dotted)}
        steered = {
            key.split(".")[1] for key in changes if fullmatch(r"flows\.\w+\.controller", key) and changes[key]
        }
        _explain_controllers(changes["preset"], where, sorted(steered - given))
        copied = _layered(copied, _preset(changes["preset"], where, given))
    let_go(copied, changes.keys())
    for dotted, value in changes.items():
        *sections, key = dotted.split(".")
        node = copied
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{at(where)}{dotted}: '{section}' is a value, not a section")
        node[key] = _copied(value) if isinstance(value, Mapping) else value
    return copied


def _copied(tree: Mapping[str, Any]) -> Tree:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def _preset(name: Any, where: str, given: Collection[str]) -> Tree:
    """The part of a tree that a preset stands for, without the flows whose codec is `given`."""
    presets = {AUTO: PRESETS[DEFAULT], **PRESETS}
    if not isinstance(name, str) or name not in presets:
        raise ConfigError(f"{at(where)}preset = {name!r}: no such preset; there are {', '.join(presets)}")
    flows = {flow: dict(tree) for flow, tree in presets[name].items() if flow not in given}
    return {"flows": flows, "evaluation": {"codec": "delta > int8 > zstd" if name == "paper" else EVALUATION}}


def _flows_with(key: str, flows: Any) -> list[str]:
    trees = flows.items() if isinstance(flows, dict) else ()
    return [flow for flow, tree in trees if isinstance(tree, dict) and tree.get(key) not in (None, False)]


def _explain_controllers(name: Any, where: str, flows: Collection[str]) -> None:
    """Say what a controller sets that was written for a codec which is not there."""
    for flow in flows:
        if name == "paper":  # whose activations have a threshold
            continue
        _LOG.warning(
            "%s: flows.%s.controller sets the step of the codec that preset = %r gives this flow, and no threshold; "
            "set flows.%s.codec as well if another is meant",
            where,
            flow,
            name,
            flow,
        )
