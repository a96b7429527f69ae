"""From a text to a codec: which stages go together, and in which order. The words are read by `language`."""

from splitcom.codecs.codec import Codec
from splitcom.codecs.lattice import Klt, LatticeCodec, Range, Uniform
from splitcom.codecs.number import Float16
from splitcom.codecs.predict import Predict
from splitcom.codecs.projection import Projection
from splitcom.codecs.stage import STAGES, Place, Stage
from splitcom.codecs.temporal import Temporal
from splitcom.errors import SpecError
from splitcom.language import Parser


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
    parser = Parser(text)
    stages: list[Stage] = []
    while True:
        start = parser.position
        stage = parser.call(STAGES)
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
        if parser.at_end:
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
