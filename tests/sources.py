"""The package's own modules, parsed when they are first asked for: what is parsed on import every worker pays for."""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import splitcom

ROOT = Path(splitcom.__file__).parent
MODULES = {
    ".".join(("splitcom", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if not path.name.endswith("_pb2.py")
}


class Trees(Mapping[str, ast.Module]):
    """Each module's tree by its name."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def __getitem__(self, name: str) -> ast.Module:
        return _parsed(MODULES[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


TREES = Trees(list(MODULES))
PACKAGES = Trees([name for name, path in MODULES.items() if path.name == "__init__.py"])
