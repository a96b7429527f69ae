"""The one colour of each flow and method, safe for colour-blind readers; knows nothing of matplotlib.

Flows have theirs in the table of flows. Hues: Okabe and Ito, "Color Universal Design" (2008), without the yellow and
black that vanish on white and on dark pages.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from splitcom.flows import FLOWS
from splitcom.report.summary import Row

INK = "#1b1f24"  # text and axes; SVGs replace it by the page's text colour

_BLUE, _SKY, _GREEN, _ORANGE, _RED, _PINK = "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7"
_GREY, _PURPLE, _BROWN = "#8a8a8a", "#7b61c4", "#8c564b"
CURVE = _BLUE  # a plot with one line
BASELINE_COLOUR = _GREY

_BASELINES = {
    "splitlora": (_GREY, "s"),
    "frozen_front": (_BROWN, "D"),
    "fedlora": (_PURPLE, "^"),
    "centralised": (_PINK, "v"),
}
_OTHERS = (_BLUE, _RED, _GREEN, _ORANGE, _SKY)
_MARKERS = ("o", "P", "X", "*", "h")


@dataclass(frozen=True)
class LabelStyle:
    """Colour and marker of a method in every plot and table."""

    colour: str
    marker: str


def flow_colour(flow: str) -> str:
    """Give the colour of a flow."""
    return FLOWS[flow].colour


def client_colour(place: int) -> str:
    """Give the colour of the client at a place in the run's order; they repeat after seven."""
    palette = (_BLUE, _ORANGE, _GREEN, _PINK, _SKY, _RED, _PURPLE)
    return palette[place % len(palette)]


def label_styles(rows: Iterable[Row]) -> dict[str, LabelStyle]:
    """Give each label its style: baselines always the same, others in order of appearance."""
    styles, others = {}, 0
    for row in rows:
        if row.method in _BASELINES:
            styles[row.label] = LabelStyle(*_BASELINES[row.method])
        else:
            # The marker moves on with each turn through the colours, so that no two labels look alike.
            turn, place = divmod(others, len(_OTHERS))
            styles[row.label] = LabelStyle(_OTHERS[place], _MARKERS[(place + turn) % len(_MARKERS)])
            others += 1
    return styles
