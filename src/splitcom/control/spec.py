"""The mini-language of controllers: "bangbang(0.95, 0.995, band=0.01)".

controller = name "(" [ argument { "," argument } ] ")"
argument   = [ name "=" ] number
"""

import re
from dataclasses import MISSING
from difflib import get_close_matches
from math import isfinite
from typing import get_type_hints

from splitcom.control.controller import CONTROLLERS, ArgumentError, Controller, arguments_of
from splitcom.errors import SpecError

_CALL = re.compile(r"\s*(?P<name>\w+)\s*\((?P<arguments>[^()]*)\)\s*")
_ARGUMENT = re.compile(r"\s*(?:(?P<name>[A-Za-z_]\w*)\s*=\s*)?(?P<value>[^\s=]+)\s*")


def parse(text: str, seed: int = 0) -> Controller:
    """Make a controller from its text; `str(controller)` is the canonical text.

    Raises:
        SpecError: where the text cannot be read or an argument is out of range; it points at the place.

    >>> str(parse("bangbang( 0.95,careful = 0.995 )"))
    'bangbang(0.95, 0.995)'
    """
    call = _CALL.fullmatch(text)
    if call is None:
        raise SpecError("expected a controller, such as fixed(0.98)", text, 0)
    cls = CONTROLLERS.get(call["name"])
    if cls is None:
        raise SpecError(f"no controller {call['name']!r}; {_nearest(call['name'], CONTROLLERS)}", text, 0)
    values, positions = _arguments(cls, call["arguments"], text, call.start("arguments"))
    missing = [a.name for a in arguments_of(cls) if a.default is MISSING and a.name not in values]
    if missing:
        raise SpecError(f"{cls.name} needs {missing[0]}: {_signature(cls)}", text, call.start("name"))
    try:
        return cls(**values, seed=seed)
    except ArgumentError as error:
        raise SpecError(f"{cls.name}: {error}", text, positions.get(error.argument, 0)) from None


def _arguments(
    cls: type[Controller], words: str, text: str, position: int
) -> tuple[dict[str, float], dict[str, int]]:
    """Values by name, and where each stands in the text."""
    names = [argument.name for argument in arguments_of(cls)]
    kinds = get_type_hints(cls)
    values: dict[str, float] = {}
    positions: dict[str, int] = {}
    named = False
    for index, word in enumerate(words.split(",") if words.strip() else []):
        match = _ARGUMENT.fullmatch(word)
        if match is None:
            raise SpecError(f"expected a number, or name=number, found {word.strip()!r}", text, position)
        if index >= len(names):
            raise SpecError(f"too many arguments: {_signature(cls)}", text, position)
        name = match["name"] or names[index]
        if name not in names:
            raise SpecError(f"{cls.name} has no argument {name!r}; {_nearest(name, names)}", text, position)
        if name in values:
            raise SpecError(f"{cls.name}: {name} is given twice", text, position)
        if match["name"] is None and named:
            raise SpecError(f"{cls.name}: arguments without a name come first", text, position)
        named = named or match["name"] is not None
        positions[name] = position + match.start("value")
        try:
            values[name] = kinds[name](match["value"])
        except ValueError:
            values[name] = float("nan")
        if not isfinite(values[name]):
            noun = "a whole number" if kinds[name] is int else "a number"
            raise SpecError(
                f"{cls.name}: {name} must be {noun}, not {match['value']!r}", text, positions[name]
            )
        position += len(word) + 1
    return values, positions


def _nearest(name: str, names: list[str] | dict[str, type[Controller]]) -> str:
    near = get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"


def _signature(cls: type[Controller]) -> str:
    words = (a.name if a.default is MISSING else f"{a.name}={a.default}" for a in arguments_of(cls))
    return f"{cls.name}({', '.join(words)})"
