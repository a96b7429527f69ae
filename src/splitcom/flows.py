"""The one table of flows: what travels between client and server; knows no message and no codec, only their names.

    activation_up ─► body ─► activation_down ─► tail ─► gradient_up ─► body ─► gradient_down
                      └───────── standard form: loss at the body ─────────┘

A new flow is a row here and what produces it. Ledger, accounting, settings, presets, reports and colours go by this
table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Direction = Literal["up", "down", "both"]
Content = Literal["activation", "gradient", "labels", "adapter", "sketch", "control", "evaluation"]


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A row of the table.

    Args:
        name: as in settings, results and the ledger.
        direction: up goes to the server.
        content: what is sent.
        colour: in every plot and table.
        cut: the cut whose tensors it carries, behind the front or before the tail; None: it crosses none. The tail's
            exist in the U-shape alone.
        base: what has entered the body before in the same step, of which this is what comes out; in the U-shape
            alone. With `residual` only what the body adds is coded.
        answers: of a gradient, the flow whose activations it is the gradient of: its receiver has sent them.
        codec: of adapters, if `flows.<name>.codec` is not set; tensors at a cut have a preset's (see
            `settings.presets`), and other flows none of their own.
        fields: of which messages it is the payload, as "message.field".
        messages: those that belong to it whole.
    """

    name: str
    direction: Direction
    content: Content
    colour: str
    cut: Literal["front", "tail"] | None = None
    base: str | None = None
    answers: str | None = None
    codec: str | None = None
    fields: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()


_TABLE = (
    Flow(
        name="activation_up",
        direction="up",
        content="activation",
        colour="#0072b2",
        cut="front",
        fields=("activation.activation", "activation_up.activation"),
    ),
    Flow(
        name="activation_down",
        direction="down",
        content="activation",
        colour="#56b4e9",
        cut="tail",
        base="activation_up",
        fields=("activation_down.activation",),
    ),
    Flow(
        name="gradient_up",
        direction="up",
        content="gradient",
        colour="#e69f00",
        cut="tail",
        answers="activation_down",
        fields=("gradient_up.gradient",),
    ),
    Flow(
        name="gradient_down",
        direction="down",
        content="gradient",
        colour="#d55e00",
        cut="front",
        base="gradient_up",
        answers="activation_up",
        fields=("gradient.gradient",),
    ),
    Flow(
        name="labels_up",
        direction="up",
        content="labels",
        colour="#009e73",
        fields=("activation.labels",),
    ),
    Flow(
        name="adapter_up",
        direction="up",
        content="adapter",
        colour="#cc79a7",
        codec="delta > grid(1.5)",
        fields=("round_end.adapter",),
    ),
    Flow(
        name="adapter_down",
        direction="down",
        content="adapter",
        colour="#7b61c4",
        codec="delta > grid(1.5)",
        fields=("round_start.adapter", "evaluation_start.adapter"),
    ),
    Flow(
        name="sketch_up",
        direction="up",
        content="sketch",
        colour="#4d4d00",
        fields=("chunk_end.sketch",),
    ),
    # what is payload of no other flow
    Flow(name="control", direction="both", content="control", colour="#8a8a8a"),
    Flow(
        name="evaluation",
        direction="both",
        content="evaluation",
        colour="#8c564b",
        messages=(
            "evaluation_batch",
            "evaluation_next",
            "evaluation_up",
            "evaluation_down",
            "evaluation_end",
        ),
    ),
)

FLOWS: Mapping[str, Flow] = MappingProxyType({flow.name: flow for flow in _TABLE})
"""By name; those at a cut come first, in the order of a step, so that a base stands before what is built on it."""

SUMS = ("up", "down", "total")
"""Of all flows: whatever crosses the network is in them."""
AT_CUT = tuple(flow.name for flow in _TABLE if flow.cut is not None)
ADAPTERS = tuple(flow.name for flow in _TABLE if flow.content == "adapter")
WITH_BASE = tuple(flow.name for flow in _TABLE if flow.base is not None)


def cut_flows(*, has_tail: bool) -> tuple[str, ...]:
    """The flows that carry tensors across a cut of the standard form or, if the model `has_tail`, of the U-shape.

    >>> cut_flows(has_tail=False)
    ('activation_up', 'gradient_down')
    """
    return tuple(name for name in AT_CUT if has_tail or FLOWS[name].cut != "tail")
