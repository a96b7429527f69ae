"""From a text to a codec: which stages go together, and in which order. The words are read by `language`."""

from splitcom.codecs.chain import ChainCodec, Float16, Stage
from splitcom.codecs.chain.projection import Projection
from splitcom.codecs.chain.temporal import Temporal
from splitcom.codecs.codec import Codec
from splitcom.codecs.element import ELEMENTS, Element, Place
from splitcom.codecs.lattice import Klt, LatticeCodec, Predict, Range, Uniform
from splitcom.errors import SpecError
from splitcom.language import Parser


def parse(text: str) -> Codec:
    """Make a codec from its text.

    Stages stand in this order, each kind at most once; a chain without a number format sends fp16.

      temporal ─► delta | projection ─► svd | topk | randtopk ─► a number format ─► zstd
                  predict ─► klt ─► uniform ─► range

    Number formats are none, fp16, bf16, int8, int4, int2, grid, golomb and dither.

    Of the second line, only predict may be left out; nothing else goes with them.

    `str(codec)` is the canonical text, and `parse(str(codec)) == codec`.

    Raises:
        SpecError: where the text cannot be read or the stages do not fit; it points at the place.

    >>> str(parse("temporal(threshold=0.98)>int4( group = 64 )"))
    'temporal(0.98) > int4'
    >>> str(parse("topk(0.1)"))
    'topk(0.1) > fp16'
    """
    parser = Parser(text)
    elements: list[Element] = []
    while True:
        start = parser.position
        element = parser.call(ELEMENTS)
        if elements and element.place <= elements[-1].place:
            raise SpecError(_misfit(elements[-1], element), text, start)
        if isinstance(element, Projection) and not (
            elements and isinstance(elements[-1], Temporal) and elements[-1].per == "sample"
        ):
            raise SpecError(
                f"{element.name} must follow temporal with per=sample: it serves to judge whole samples",
                text,
                start,
            )
        elements.append(element)
        if parser.at_end:
            break
        parser.expect(">", "'>' and another stage, or the end")
    stages = [element for element in elements if isinstance(element, Stage)]
    return _chain(stages) if len(stages) == len(elements) else _lattice(elements, text, start)


def _chain(stages: list[Stage]) -> ChainCodec:
    if not any(stage.place is Place.NUMBER for stage in stages):
        at = next((i for i, stage in enumerate(stages) if stage.place > Place.NUMBER), len(stages))
        stages.insert(at, Float16())
    return ChainCodec(tuple(stages))


def _lattice(elements: list[Element], text: str, position: int) -> LatticeCodec:
    match elements:
        case [Klt() as klt, Uniform() as uniform, Range() as coder]:
            return LatticeCodec(None, klt, uniform, coder)
        case [Predict() as predict, Klt() as klt, Uniform() as uniform, Range() as coder]:
            return LatticeCodec(predict, klt, uniform, coder)
    raise SpecError(
        "predict, klt, uniform and range work on the same integers: write klt(...) > uniform(...) > range, with or "
        "without predict before them, and nothing else",
        text,
        position,
    )


def _misfit(before: Element, stage: Element) -> str:
    if stage.name == before.name:
        return f"{stage.name} stands twice"
    if stage.place == before.place and Projection.name in (stage.name, before.name):
        other = before.name if stage.name == Projection.name else stage.name
        return (
            f"{other} needs the whole reference at the sender, which {Projection.name} does not keep, "
            "so the loop would not be closed: take one of them"
        )
    if stage.place == before.place:
        kind = sorted(name for name, cls in ELEMENTS.items() if cls.place == stage.place)
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
