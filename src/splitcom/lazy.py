"""Names that a package offers and loads when they are first used; knows no package."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, home: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__`, of the names in `home` and the modules where they are.

    >>> get, names = lazy("splitcom", {"dumps": "json"})
    >>> get("dumps")([1]), names()
    ('[1]', ['dumps'])
    >>> get("loads")
    Traceback (most recent call last):
    ...
    AttributeError: module 'splitcom' has no attribute 'loads'
    """

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(home[name]), name)

    return get, lambda: sorted(home)
