"""The mini-language of controllers."""

import pytest

from splitcom.control import parse
from splitcom.errors import SpecError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a controller"),
        ("fixed", r"fixed needs value: fixed\(value\)"),
        ("fixed(0.9", "expected ',' or '\\)', found the end"),
        ("fixed(0.9) > fixed(0.8)", "expected the end, found '>'"),
        ("fixd(0.9)", "did you mean 'fixed'"),
        ("pid(0.9)", "no controller 'pid'; there are"),
        ("fixed()", r"fixed needs value: fixed\(value\)"),
        ("fixed(0.9, 0.8)", "too many arguments"),
        ("fixed(high)", "value must be a number, not 'high'"),
        ("fixed(nan)", "value must be a number, not 'nan'"),
        ("linear(0.9, last=)", "expected a value for last, found '\\)'"),
        ("linear(first=0.9, 0.8)", "arguments without a name come first"),
        ("linear(0.9, first=0.8)", "first is given twice"),
        ("linear(0.9, lst=0.8)", "did you mean 'last'"),
        ("bangbang(0.9, 0.99, band=-1)", "band must be at least 0, not -1"),
        ("ddpg(0.99, 0.9)", "high must be above low, 0.99, not 0.9"),
        ("ddpg(0.9, 0.99, warmup=1.5)", "warmup must be a whole number, not '1.5'"),
        ("ddpg(0.9, 0.99, discount=1)", "discount must be at least 0 and below 1, not 1"),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(SpecError, match=message):
        parse(text)


def test_the_error_points_at_the_place():
    with pytest.raises(SpecError) as caught:
        parse("bangbang(0.9, 0.99, band=-1)")
    *_, text, pointer = str(caught.value).splitlines()
    assert text[pointer.index("^")] == "-"
