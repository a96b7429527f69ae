"""The mini-language of codecs: "temporal(0.98) > delta > int4(group=64) > zstd".

codec    = stage { ">" stage }
stage    = name [ "(" [ argument { "," argument } ] ")" ]
argument = [ name "=" ] value
value    = number | word
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Literal, NamedTuple, get_args, get_origin, get_type_hints

from splitcom.codecs.codec import Codec
from splitcom.codecs.lattice import Klt, LatticeCodec, Range, Uniform
from splitcom.codecs.number import Float16
from splitcom.codecs.predict import Predict
from splitcom.codecs.projection import Projection
from splitcom.codecs.stage import STAGES, ArgumentError, Place, Stage
from splitcom.codecs.temporal import Temporal
from splitcom.errors import SpecError

_TOKEN = re.compile(r"\s*(?:(?P<word>[A-Za-z_]\w*)|(?P<number>[-+]?[\d.][\w.+-]*)|(?P<mark>[>(),=]))")


class _Token(NamedTuple):
    text: str
    position: int
    kind: str


def parse(text: str) -> Codec:
    """Make a codec from its text.

    Stages stand in this order, each kind at most once; a chain without a number format sends fp16.

        temporal ─► delta | projection ─► svd | topk | randtopk ─► none | fp16 | bf16 | int8 | int4 | int2 ─► zstd
                    predict ─► klt ─► uniform ─► range

    Of the second line, only predict may be left out; nothing else goes with them.

    `str(codec)` is the canonical text, and `parse(str(codec)) == codec`.

    Raises:
        SpecError: where the text cannot be read or the stages do not fit; it points at the place.

    >>> str(parse("temporal(threshold=0.98)>int4( group = 64 )"))
    'temporal(0.98) > int4'
    >>> str(parse("topk(0.1)"))
    'topk(0.1) > fp16'
    """
    parser = _Parser(text)
    stages: list[Stage] = []
    while True:
        start = parser.peek().position
        stage = parser.stage()
        if stages and stage.place <= stages[-1].place:
            raise SpecError(_misfit(stages[-1], stage), text, start)
        if isinstance(stage, Projection) and not (
            stages and isinstance(stages[-1], Temporal) and stages[-1].per == "sample"
        ):
            raise SpecError(
                f"{stage.name} must follow temporal with per=sample: it serves to judge whole samples",
                text,
                start,
            )
        stages.append(stage)
        if parser.peek().kind == "end":
            break
        parser.expect(">", "'>' and another stage, or the end")
    if any(isinstance(stage, _LATTICE) for stage in stages):
        return _lattice(stages, text, start)
    if not any(stage.place is Place.NUMBER for stage in stages):
        at = next((i for i, stage in enumerate(stages) if stage.place > Place.NUMBER), len(stages))
        stages.insert(at, Float16())
    return Codec(tuple(stages))


_LATTICE = (Predict, Klt, Uniform, Range)


def _lattice(stages: list[Stage], text: str, position: int) -> Codec:
    kinds = [type(stage) for stage in stages]
    if kinds not in ([*_LATTICE], [*_LATTICE[1:]]):
        raise SpecError(
            "predict, klt, uniform and range work on the same integers: write klt(...) > uniform(...) > range, with or "
            "without predict before them, and nothing else",
            text,
            position,
        )
    return LatticeCodec(tuple(stages))


def _misfit(before: Stage, stage: Stage) -> str:
    if stage.name == before.name:
        return f"{stage.name} stands twice"
    if stage.place == before.place and Projection.name in (stage.name, before.name):
        other = before.name if stage.name == Projection.name else stage.name
        return (
            f"{other} needs the whole reference at the sender, which {Projection.name} does not keep, "
            "so the loop would not be closed: take one of them"
        )
    if stage.place == before.place:
        kind = sorted(name for name, cls in STAGES.items() if cls.place == stage.place)
        return f"{stage.name} after {before.name}: only one of {', '.join(kind)} makes sense in a chain"
    if before.place is Place.ENTROPY:
        return f"{before.name} must come last: what it gives are bytes, which {stage.name} cannot take"
    match stage.place:
        case Place.SKIP:
            return f"{stage.name} must come first: it compares the values themselves with the reference"
        case Place.PREDICT:
            return (
                f"{stage.name} must come before {before.name}: references are kept of the values themselves"
            )
        case _:
            return f"{stage.name} must come before {before.name}: it takes numbers, not their codes"


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._tokenize())

    def _tokenize(self) -> Iterator[_Token]:
        position, end = 0, len(self._text.rstrip())
        while position < end:
            match = _TOKEN.match(self._text, position)
            if match is None:
                position += len(self._text[position:]) - len(self._text[position:].lstrip())
                raise self._error(f"unexpected {self._text[position]!r}", position)
            kind = str(match.lastgroup)
            yield _Token(match[kind], match.start(kind), kind)
            position = match.end()
        yield _Token("the end", end, "end")

    def _error(self, message: str, position: int) -> SpecError:
        return SpecError(message, self._text, position)

    def peek(self) -> _Token:
        return self._tokens[0]

    def _next(self) -> _Token:
        return self._tokens.pop(0) if len(self._tokens) > 1 else self._tokens[0]

    def expect(self, text: str, expected: str) -> _Token:
        token = self._tokens[0]
        if token.text != text:
            raise self._error(f"expected {expected}, found {_quoted(token)}", token.position)
        return self._next()

    def stage(self) -> Stage:
        token = self.peek()
        if token.kind != "word":
            raise self._error(f"expected a stage, found {_quoted(token)}", token.position)
        cls = STAGES.get(self._next().text)
        if cls is None:
            raise self._error(
                f"no stage {token.text!r}; {_nearest(token.text, sorted(STAGES))}", token.position
            )
        arguments = self._arguments(cls) if self.peek().text == "(" else {}
        for field in fields(cls):
            if field.name not in arguments and not hasattr(cls, field.name):
                raise self._error(f"{cls.name} needs {field.name}: {_signature(cls)}", token.position)
        try:
            return cls(**{name: value for name, (value, _) in arguments.items()})
        except ArgumentError as error:
            position = arguments[error.argument][1] if error.argument in arguments else token.position
            raise self._error(f"{cls.name}: {error}", position) from None

    def _arguments(self, cls: type[Stage]) -> dict[str, tuple[object, int]]:
        names = [field.name for field in fields(cls)]
        arguments: dict[str, tuple[object, int]] = {}
        named = False
        self._next()
        while self.peek().text != ")":
            token = self._next()
            if token.kind == "word" and self.peek().text == "=":
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
            if self.peek().text != ")":
                self.expect(",", "',' or ')'")
        self._next()
        return arguments

    def _value(self, cls: type[Stage], name: str, token: _Token) -> object:
        if token.kind not in ("word", "number"):
            raise self._error(f"expected a value for {name}, found {_quoted(token)}", token.position)
        kind = get_type_hints(cls)[name]
        if get_origin(kind) is Literal:
            if token.text not in get_args(kind):
                choices = get_args(kind)
                raise self._error(
                    f"{cls.name}: {name} must be one of {', '.join(choices)}, not {token.text!r}",
                    token.position,
                )
            return token.text
        try:
            return kind(token.text)
        except ValueError:
            noun = "a whole number" if kind is int else "a number"
            raise self._error(
                f"{cls.name}: {name} must be {noun}, not {token.text!r}", token.position
            ) from None


def _quoted(token: _Token) -> str:
    return token.text if token.kind == "end" else repr(token.text)


def _nearest(name: str, names: Sequence[str]) -> str:
    if not names:
        return "it takes none"
    near = get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"


def _signature(cls: type[Stage]) -> str:
    arguments = (f"{f.name}={getattr(cls, f.name)}" if hasattr(cls, f.name) else f.name for f in fields(cls))
    return f"{cls.name}({', '.join(arguments)})"
