"""What holds for the package as a whole: one table of flows, exports that are what they say, registries complete.

The direction of imports is import-linter's business (`make check`).
"""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from splitcom.flows import FLOWS
from splitcom.protocol.messages_pb2 import Message

from .sources import MODULES, PACKAGES, ROOT, TREES

ONE_WAY = {
    flow.name for flow in FLOWS.values() if flow.direction != "both"
}  # the others are words of their own
MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_ARGUMENTS = 400, 50, 7
LARGER = {
    "splitcom.cli.audit.audit": "its options are declared in its signature, and what it prints is one table",
    "splitcom.cli.inspect.inspect": "its options are declared in its signature, and what it prints are tables",
    "splitcom.cli.init.init": "its options are declared in its signature; the body is short",
    "splitcom.cli.join.join": "the same",
    "splitcom.cli.serve.serve": "the same",
    "splitcom.transports.grpc_server.GrpcServer.__init__": "where it listens, whom it believes, what it offers",
}
MESSAGES = {field.name for field in Message.DESCRIPTOR.oneofs_by_name["kind"].fields}


@cache
def exporting() -> set[str]:
    """The packages that say what they export."""
    return {name for name, tree in PACKAGES.items() if "__all__" in ast.dump(tree)}


def imports_of(name: str) -> Iterator[tuple[str, str]]:
    """Every `from a import b` of a module."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((node.module, alias.name) for alias in node.names)


def handed_on(name: str) -> set[str]:
    """The names that a package's `__init__.py` takes from elsewhere and makes no use of itself."""
    tree = PACKAGES[name]
    taken = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if f"{node.module}.{alias.name}" not in MODULES
    }
    return taken - {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


@pytest.mark.parametrize("name", PACKAGES)
def test_all_is_what_a_package_exports(name):
    exported = getattr(importlib.import_module(name), "__all__", [])
    assert len(exported) == len(set(exported)) and all(
        hasattr(importlib.import_module(name), one) for one in exported
    )
    assert handed_on(name) <= set(exported)


@pytest.mark.parametrize("name", TREES)
def test_nobody_imports_from_a_package_what_it_does_not_export(name):
    for package, imported in imports_of(name):
        if package in exporting() and f"{package}.{imported}" not in MODULES:
            assert imported in importlib.import_module(package).__all__, (
                f"{package} does not export {imported}"
            )


def test_every_module_that_registers_something_is_imported_by_its_package():
    registering = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(isinstance(mark, ast.Name) and mark.id == "register" for mark in node.decorator_list)
    }
    packages = {name.rpartition(".")[0] for name in registering}
    assert packages >= {"splitcom.codecs.chain", "splitcom.codecs.lattice", "splitcom.control"}
    program = f"import sys, {', '.join(packages)}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert registering <= set(ran.stdout.split())


def test_every_method_can_be_named():
    from splitcom.methods import METHODS

    defined = {
        target.id
        for name, tree in TREES.items()
        if name.startswith("splitcom.methods.")
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and getattr(node.value.func, "id", "") == "Method"
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert len(defined) == len(METHODS) >= 4


def named_flows(node: ast.AST) -> set[str]:
    """The flows that a literal collection names, on their own or in dotted keys."""
    if isinstance(node, ast.Dict):
        elements = [key for key in node.keys if key is not None]
    elif isinstance(node, ast.List | ast.Tuple | ast.Set):
        elements = node.elts
    else:
        return set()
    texts = [one.value for one in elements if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    if {*texts} <= MESSAGES and not {*texts} <= ONE_WAY:  # of messages, some of which are called as flows are
        return set()
    return {word for text in texts for word in text.split(".") if word in ONE_WAY}


@pytest.mark.parametrize(
    "name", [name for name in TREES if not name.startswith(("splitcom.flows", "splitcom.config"))]
)
def test_flows_are_listed_in_one_table(name):
    for node in ast.walk(TREES[name]):
        assert len(named_flows(node)) < 2, (
            f"{name}, line {getattr(node, 'lineno', 0)}: take them from flows.py"
        )


def test_no_class_lists_flows_as_its_fields():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                fields = {
                    part.target.id
                    for part in node.body
                    if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
                }
                assert len(fields & ONE_WAY) < 2, f"{name}.{node.name}: take them from flows.py"


def sizes() -> Iterator[tuple[str, int, int]]:
    """Modules and functions with their lines, constructors with their arguments; each with what is allowed."""
    for name, tree in TREES.items():
        yield name, len(MODULES[name].read_text(encoding="utf-8").splitlines()), MOST_LINES
        yield from sizes_in(tree, name)


def sizes_in(tree: ast.AST, name: str) -> Iterator[tuple[str, int, int]]:
    for node in ast.iter_child_nodes(tree):
        inner = f"{name}.{node.name}" if isinstance(node, ast.ClassDef | ast.FunctionDef) else name
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            yield inner, node.end_lineno - node.lineno + 1, MOST_LINES_OF_A_FUNCTION
            if node.name == "__init__":
                given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                yield inner, len(given) - 1, MOST_ARGUMENTS
        yield from sizes_in(node, inner)


def test_what_is_large_has_a_reason():
    assert {name for name, size, most in sizes() if size > most} <= LARGER.keys()


def test_files_that_documents_name_exist():
    """A name in code font may leave out the folders above it, but not be that of nothing."""
    project = ROOT.parents[1]
    own = {
        path.relative_to(folder)
        for folder in (ROOT, project / "tests", project / "benchmarks", project / "experiments")
        for path in folder.rglob("*.py")
    }
    ends = {Path(*path.parts[first:]) for path in own for first in range(len(path.parts))}
    for document in (*project.glob("*.md"), *project.glob("docs/**/*.md")):
        named = re.findall(r"`([\w./-]+\.py)`", document.read_text(encoding="utf-8"))
        strange = {
            name
            for name in named
            if Path(name) not in ends and not (project / name).exists() and document.name != "CHANGELOG.md"
        }
        assert not strange, f"{document.name} names {sorted(strange)}"


def test_experiments_are_in_the_list_that_says_what_each_needs():
    """`experiments/README.md` has a row for each file; a folder may be one, such as `field/*.toml`."""
    folder = ROOT.parents[1] / "experiments"
    text = (folder / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"[`/ ]([\w./*]+\.(?:py|toml))\b", text)
    listed = {path for name in named for path in folder.glob(name.removeprefix("experiments/"))}
    there = {path for path in folder.rglob("*") if path.suffix in (".py", ".toml")}
    assert not there - listed, "give these a row in experiments/README.md"
