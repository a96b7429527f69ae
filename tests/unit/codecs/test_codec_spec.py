import pytest

from splitcom.codecs import parse
from splitcom.errors import SpecError


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("none", "none"),
        ("  fp16 ", "fp16"),
        ("int4()", "int4"),
        ("int4(64)", "int4"),
        ("int4(32, stochastic)", "int4(group=32, rounding=stochastic)"),
        ("int4(rounding=stochastic,group=32)", "int4(group=32, rounding=stochastic)"),
        ("temporal(threshold=9.8e-1,per=token)", "temporal(0.98, per=token) > fp16"),
        ("delta", "delta > fp16"),
        ("delta>zstd", "delta > fp16 > zstd"),
        ("svd(8)", "svd(8) > fp16"),
        ("temporal(.1, metric=relative_l2) > none", "temporal(0.1, metric=relative_l2) > none"),
        ("temporal(-1)>delta>topk(1)>int2>zstd(level=3)", "temporal(-1.0) > delta > topk(1.0) > int2 > zstd"),
    ],
)
def test_canonical_text(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical
    assert str(parse(canonical)) == canonical
    assert parse(text) == parse(canonical)


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("", 0, "expected a stage, found the end"),
        ("int4 >", 6, "expected a stage, found the end"),
        ("> int4", 0, "expected a stage, found '>'"),
        ("int4 zstd", 5, "expected '>' and another stage"),
        ("int4 ; zstd", 5, "unexpected ';'"),
        ("delta > imt4", 8, "no stage 'imt4'; did you mean 'int4'?"),
        ("quux", 0, "no stage 'quux'; there are bf16, delta, "),
        ("int4(grup=8)", 5, "int4 has no argument 'grup'; did you mean 'group'?"),
        ("fp16(8)", 5, "too many arguments: fp16()"),
        ("fp16(group=8)", 5, "fp16 has no argument 'group'; it takes none"),
        ("int4(group=0)", 11, "int4: group must be at least 1, not 0"),
        ("int4(group=1.5)", 11, "int4: group must be a whole number, not '1.5'"),
        ("int4(group=8, group=9)", 14, "int4: group is given twice"),
        ("int4(group=8, stochastic)", 14, "int4: arguments without a name come first"),
        ("int4(rounding=stochastic, 8)", 26, "int4: arguments without a name come first"),
        ("int4(8, nearest, 3)", 17, "too many arguments: int4(group=64, rounding=nearest)"),
        ("int4(rounding=up)", 14, "int4: rounding must be one of nearest, stochastic, not 'up'"),
        ("int4(group=)", 11, "expected a value for group, found ')'"),
        ("int4(group", 5, "int4: group must be a whole number"),
        ("int4(8", 6, "expected ',' or ')', found the end"),
        ("int4(8 9)", 7, "expected ',' or ')', found '9'"),
        ("topk", 0, "topk needs ratio: topk(ratio)"),
        ("delta > topk()", 8, "topk needs ratio"),
        ("topk(0)", 5, "topk: ratio must be above 0 and at most 1, not 0"),
        ("topk(nan)", 5, "topk: ratio must be a number, not 'nan'"),
        ("randtopk(0.1, alpha=1)", 20, "randtopk: alpha must be at least 0 and below 1, not 1"),
        ("svd(0)", 4, "svd: rank must be at least 1"),
        ("zstd(99)", 5, "zstd: level must be 1 to 22, not 99"),
        ("temporal(1.5)", 9, "temporal: threshold must be -1 to 1 for cosine, not 1.5"),
        ("temporal(-0.1, relative_l2)", 9, "temporal: threshold must be 0 to inf for relative_l2, not -0.1"),
        ("delta > temporal(0.9)", 8, "temporal must come first"),
        ("temporal(0.9) > temporal(0.8)", 16, "temporal stands twice"),
        ("topk(0.1) > delta", 12, "delta must come before topk"),
        ("temporal(0.9) > projection(0)", 27, "projection: dim must be at least 1, not 0"),
        ("temporal(0.9) > projection(8, pcb)", 30, "projection: kind must be one of random, hadamard, pca"),
        ("projection(8)", 0, "projection must follow temporal with per=sample"),
        ("temporal(0.9, per=token) > projection(8)", 27, "projection must follow temporal with per=sample"),
        ("temporal(0.9) > delta > projection(8)", 24, "delta needs the whole reference at the sender"),
        ("temporal(0.9) > projection(8) > delta", 32, "delta needs the whole reference at the sender"),
        ("int8 > projection(8)", 7, "projection must come before int8"),
        (
            "int8 > int4",
            7,
            "int4 after int8: only one of bf16, dither, fp16, golomb, grid, int2, int4, int8, none",
        ),
        ("int8 > fp16", 7, "fp16 after int8: only one of"),
        ("svd(2) > topk(0.1)", 9, "topk after svd: only one of klt, randtopk, svd, topk"),
        ("int8 > svd(2)", 7, "svd must come before int8: it takes numbers, not their codes"),
        ("klt(0) > uniform(1) > range", 4, "klt: dims must be 1 to 4095, not 0"),
        ("klt(8) > uniform(1, prompt=0) > range", 27, "uniform: prompt must be 1 to 16, not 0"),
        ("klt(8) > uniform(0) > range", 17, "uniform: step must be 0.001 to 1000, not 0"),
        ("predict(rank=256) > klt(8) > uniform(1) > range", 13, "predict: rank must be 0 to 255, not 256"),
        ("predict > klt(8) > uniform(1)", 19, "work on the same integers"),
        ("delta > klt(8) > uniform(1) > range", 30, "work on the same integers"),
        ("int8 > range", 7, "work on the same integers"),
        ("zstd > int4", 7, "zstd must come last"),
        ("zstd > zstd", 7, "zstd stands twice"),
    ],
)
def test_errors_point_at_the_place(text: str, position: int, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert caught.value.position == position
    assert str(caught.value).splitlines()[1:] == [f"  {text}", "  " + " " * position + "^"]
