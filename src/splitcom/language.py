"""The mini-language in which settings name codecs and controllers; knows neither of them.

    text     = call { ">" call }                              a codec's; a controller's is one call
    call     = name [ "(" [ argument { "," argument } ] ")" ]
    argument = [ name "=" ] value
    value    = number | word

    text ─► Parser ─► name ─► Registry ─► class ─► its fields' types and defaults ─► object ─► str: the canonical text

What a call makes is an object of a dataclass whose fields are the arguments: `int`, `float` or `Literal[...]`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from inspect import getdoc
from math import isfinite
from textwrap import dedent
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from splitcom.amount import COMPUTABLE
from splitcom.errors import SpecError
from splitcom.plugins import load_plugins

_TOKEN = re.compile(r"\s*(?:(?P<word>[A-Za-z_]\w*)|(?P<number>[-+]?[\d.][\w.+-]*)|(?P<mark>[>(),=]))")


class ArgumentError(ValueError):
    """An argument is out of range: raised by `__post_init__`, and turned into an error that points at the place."""

    def __init__(self, argument: str, message: str) -> None:
        self.argument = argument
        super().__init__(f"{argument} {message}")


class Call:
    """Base of the dataclasses that can be named. Keyword-only fields are no arguments: whoever parses sets them."""

    name: ClassVar[str]
    example: ClassVar[str] = ""
    """A text with it in, if `name` alone is none."""

    def __str__(self) -> str:
        """Canonical text: required arguments by position, the others by name where not the default."""
        words = []
        for argument in _arguments_of(type(self)):
            value = getattr(self, argument.name)
            if argument.default is MISSING:
                words.append(str(value))
            elif value != argument.default:
                words.append(f"{argument.name}={value}")
        return f"{self.name}({', '.join(words)})" if words else self.name


C = TypeVar("C", bound=Call)
K = TypeVar("K", bound=type[Any])


class Registry(dict[str, type[C]]):
    """What can be named, by name. `noun` is what errors call one of them, `expected` what they ask for."""

    def __init__(self, noun: str, expected: str) -> None:
        super().__init__()
        self.noun = noun
        self.expected = expected

    def register(self, cls: K) -> K:
        """Make a class known under its `name`; a second one of that name is refused."""
        if cls.name in self:
            raise ValueError(f"a {self.noun} named {cls.name!r} is registered already: {self[cls.name]}")
        self[cls.name] = cls
        return cls

    def parse(self, text: str, **settings: Any) -> C:
        """What a text names that holds one call and nothing else; `settings` are of `Parser.call`."""
        parser = Parser(text)
        found = parser.call(self, **settings)
        parser.finish()
        return found


class Word(NamedTuple):
    """What can be written, for whoever looks it up: `summary` and what each argument means are from the docstring."""

    name: str
    signature: str
    summary: str
    arguments: dict[str, str]
    example: str


def words(registry: Registry[Any]) -> list[Word]:
    """All of a registry, by name, those of plug-ins too."""
    load_plugins()
    return [_word(cls) for _, cls in sorted(registry.items())]


class _Token(NamedTuple):
    text: str
    position: int
    kind: str


class Parser:
    """Reads a text from left to right. Every error is a SpecError that points at the place."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._tokens = list(self._tokenize())

    def _tokenize(self) -> Iterator[_Token]:
        position, end = 0, len(self.text.rstrip())
        while position < end:
            match = _TOKEN.match(self.text, position)
            if match is None:
                position += len(self.text[position:]) - len(self.text[position:].lstrip())
                raise self._error(f"unexpected {self.text[position]!r}", position)
            kind = str(match.lastgroup)
            yield _Token(match[kind], match.start(kind), kind)
            position = match.end()
        yield _Token("the end", end, "end")

    @property
    def position(self) -> int:
        """Where what comes next begins in the text."""
        return self._peek().position

    @property
    def at_end(self) -> bool:
        """Whether nothing is left."""
        return self._peek().kind == "end"

    def expect(self, mark: str, expected: str) -> None:
        """Read `mark`; `expected` says what could stand here."""
        if self._peek().text != mark:
            raise self._unexpected(expected)
        self._next()

    def finish(self) -> None:
        """Refuse what is left over."""
        if not self.at_end:
            raise self._unexpected("the end")

    def call(self, registry: Registry[C], **settings: Any) -> C:
        """Read a call, and make the object; `settings` are its keyword-only fields."""
        token = self._peek()
        if token.kind != "word":
            raise self._unexpected(registry.expected)
        name = self._next().text
        if name not in registry:
            load_plugins()
        cls = registry.get(name)
        if cls is None:
            message = f"no {registry.noun} {token.text!r}; {_nearest(token.text, sorted(registry))}"
            raise self._error(message, token.position)
        arguments = self._arguments(cls) if self._peek().text == "(" else {}
        for argument in _arguments_of(cls):
            if argument.name not in arguments and argument.default is MISSING:
                raise self._error(f"{cls.name} needs {argument.name}: {_signature(cls)}", token.position)
        try:
            return cls(**{name: value for name, (value, _) in arguments.items()}, **settings)
        except ArgumentError as error:
            position = arguments[error.argument][1] if error.argument in arguments else token.position
            raise self._error(f"{cls.name}: {error}", position) from None

    def _arguments(self, cls: type[Call]) -> dict[str, tuple[object, int]]:
        """Values by name, and where each stands in the text."""
        names = [argument.name for argument in _arguments_of(cls)]
        arguments: dict[str, tuple[object, int]] = {}
        named = False
        self._next()
        while self._peek().text != ")":
            token = self._next()
            if token.kind == "word" and self._peek().text == "=":
                name, place, token = token.text, token.position, (self._next(), self._next())[1]
                if name not in names:
                    raise self._error(f"{cls.name} has no argument {name!r}; {_nearest(name, names)}", place)
                if name in arguments:
                    raise self._error(f"{cls.name}: {name} is given twice", place)
                named = True
            elif named:
                raise self._error(f"{cls.name}: arguments without a name come first", token.position)
            elif len(arguments) == len(names):
                raise self._error(f"too many arguments: {_signature(cls)}", token.position)
            else:
                name = names[len(arguments)]
            arguments[name] = (self._value(cls, name, token), token.position)
            if self._peek().text != ")":
                self.expect(",", "',' or ')'")
        self._next()
        return arguments

    def _value(self, cls: type[Call], name: str, token: _Token) -> object:
        if token.kind not in ("word", "number"):
            raise self._error(f"expected a value for {name}, found {_quoted(token)}", token.position)
        kind = get_type_hints(cls)[name]
        if get_origin(kind) is Literal:
            if token.text in get_args(kind):
                return token.text
            noun = f"one of {', '.join(get_args(kind))}"
        else:
            noun = "a whole number" if kind is int else "a number"
            try:
                value = kind(token.text)
                if isfinite(value):
                    if kind is int or not value or COMPUTABLE[0] <= abs(value) <= COMPUTABLE[1]:
                        return value
                    noun = f"0 or from {COMPUTABLE[0]:g} to {COMPUTABLE[1]:g}"
            except (ValueError, OverflowError):
                pass
        raise self._error(f"{cls.name}: {name} must be {noun}, not {token.text!r}", token.position)

    def _peek(self) -> _Token:
        return self._tokens[0]

    def _next(self) -> _Token:
        return self._tokens.pop(0) if len(self._tokens) > 1 else self._tokens[0]

    def _unexpected(self, expected: str) -> SpecError:
        token = self._peek()
        return self._error(f"expected {expected}, found {_quoted(token)}", token.position)

    def _error(self, message: str, position: int) -> SpecError:
        return SpecError(message, self.text, position)


def _arguments_of(cls: type[Any]) -> list[Field[Any]]:
    """The fields that are arguments, in their order."""
    return [field for field in fields(cls) if field.init and not field.kw_only]


def _word(cls: type[Call]) -> Word:
    text = getdoc(cls) or ""
    summary, _, rest = text.partition("\n\n")
    found = re.search(r"^Args:\n((?:[ ]+.*\n?|\n(?=[ ]))*)", rest, re.MULTILINE)
    said = dict.fromkeys((argument.name for argument in _arguments_of(cls)), "")
    name = ""
    for row in dedent(found[1]).splitlines() if found else []:
        head = re.match(r"(\w+(?:, \w+)*): (.*)", row)
        if head:
            name = head[1]
        for one in name.split(", "):
            if one in said:
                said[one] = f"{said[one]} {head[2] if head else row.strip()}".strip()
    return Word(cls.name, _signature(cls), " ".join(summary.split()), said, cls.example or cls.name)


def _quoted(token: _Token) -> str:
    return token.text if token.kind == "end" else repr(token.text)


def _nearest(name: str, names: Sequence[str]) -> str:
    if not names:
        return "it takes none"
    near = get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"


def _signature(cls: type[Call]) -> str:
    listed = (a.name if a.default is MISSING else f"{a.name}={a.default}" for a in _arguments_of(cls))
    return f"{cls.name}({', '.join(listed)})"
