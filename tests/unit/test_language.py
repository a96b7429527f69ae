"""Calls with arguments, whatever they name."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from splitcom.errors import SpecError
from splitcom.language import ArgumentError, Call, Parser, Registry, words

SHAPES: Registry[Call] = Registry("shape", "a shape")


@SHAPES.register
@dataclass(frozen=True)
class Box(Call):
    """A box.

    Args:
        width: in metres,
            and never less than one.
        height: as well.
    """

    name = "box"

    width: int
    height: float = 1.0
    colour: Literal["red", "blue"] = "red"
    owner: str = field(default="nobody", kw_only=True)

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ArgumentError("width", f"must be at least 1, not {self.width}")


def read(text: str) -> Call:
    parser = Parser(text)
    shape = parser.call(SHAPES, owner="me")
    parser.finish()
    return shape


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("box(3)", Box(3, owner="me")),
        (" box( 3,2 ) ", Box(3, 2.0, owner="me")),
        ("box(colour=blue, width=3, height=1e1)", Box(3, 10.0, "blue", owner="me")),
    ],
)
def test_a_call_makes_its_object_and_its_text_makes_it_again(text: str, expected: Box) -> None:
    assert read(text) == expected
    assert read(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("", 0, "expected a shape, found the end"),
        ("box", 0, "box needs width: box(width, height=1.0, colour=red)"),
        ("bx(1)", 0, "no shape 'bx'; did you mean 'box'?"),
        ("box(0)", 4, "box: width must be at least 1, not 0"),
        ("box(1, inf)", 7, "box: height must be a number, not 'inf'"),
        ("box(1, 1e-320)", 7, "box: height must be 0 or from 1e-36 to 1e+36, not '1e-320'"),
        ("box(1, height=nan)", 14, "box: height must be a number, not 'nan'"),
        ("box(" + "9" * 400 + ")", 4, "box: width must be a whole number"),
        ("box(1, colour=green)", 14, "box: colour must be one of red, blue, not 'green'"),
        ("box(1, owner=you)", 7, "box has no argument 'owner'; there are width, height, colour"),
        ("box(1, 2, red, 4)", 15, "too many arguments"),
        ("box(1) box(2)", 7, "expected the end, found 'box'"),
        ("box(1", 5, "expected ',' or ')', found the end"),
    ],
)
def test_errors_point_at_the_place(text: str, position: int, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(text)
    assert message in str(caught.value) and caught.value.position == position


def test_a_second_one_of_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="a shape named 'box' is registered already"):
        SHAPES.register(Box)


def test_a_word_is_described_by_its_docstring() -> None:
    (box,) = words(SHAPES)

    assert box.signature == "box(width, height=1.0, colour=red)"
    assert box.summary == "A box."
    assert box.arguments == {
        "width": "in metres, and never less than one.",
        "height": "as well.",
        "colour": "",
    }
    assert box.example == "box"
