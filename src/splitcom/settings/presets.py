"""What `preset = "balanced"` stands for, and what flows are if nothing is set; knows no codec, only their texts."""

from collections.abc import Collection
from typing import Any

from splitcom.flows import AT_CUT, FLOWS

Tree = dict[str, Any]


def _preset_of(activation: float, gradient: float, tail: tuple[float, float]) -> Tree:
    """Flows with these steps; finer ones at the `tail`, of activations and of gradients.

    What leaves the body is coded as what it adds to what has come in, so its steps are in units of that. When fronts
    learn no more, activations are sent in half of their step.
    """
    predicted = "predict(gain=fitted{}) > {} > uniform({}, dead_zone=0.3, prompt={}) > range"
    summed = "predict(window=0, rank=0) > klt(threshold={}, centre=sum{}) > uniform({}) > range"
    trees: Tree = {}
    for flow in (FLOWS[name] for name in AT_CUT):
        match flow.content, flow.cut:
            case "activation", "front":
                codec = predicted.format(", guess=labels", "klt", activation, "2, first=0.0")
            case "activation", _:
                codec = predicted.format("", "klt(threshold=0.7)", tail[0], 6)
            case _, "front":
                codec = summed.format(0.3, ", along=32", gradient)
            case _:
                codec = summed.format(0.7, "", tail[1])
        freezes = (flow.content, flow.cut) == ("activation", "front")
        controller = f"freeze({activation}, {activation / 2})" if freezes else None
        trees[flow.name] = {"codec": codec, "controller": controller, "residual": flow.base is not None}
    return trees


def _paper() -> Tree:
    """SplitCom's own recipe (2602.10564): what is sent again is gated; int4 of differences, gradients as int8."""
    plain = {"controller": None, "residual": False}
    at_cut = {"activation": "temporal(0.98) > delta > int4 > zstd", "gradient": "int8 > zstd"}
    plain_adapter = {"codec": "fp16", "codec_a": None, "error_feedback": False}
    adapters = {name: dict(plain_adapter) for name, flow in FLOWS.items() if flow.content == "adapter"}
    return {name: {"codec": at_cut[FLOWS[name].content], **plain} for name in AT_CUT} | adapters


EVALUATION = "predict(gain=fitted, guess=labels) > klt > uniform(0.25) > range"
"""The codec of held-out samples, but for the preset paper: a loss that is told wrong saves nothing."""
PRESETS: dict[str, Tree] = {
    "fine": _preset_of(0.15, 1.25, tail=(0.075, 0.21)),
    "quality": _preset_of(0.3, 2.5, tail=(0.15, 0.42)),
    "balanced": _preset_of(0.45, 3.5, tail=(0.45, 1.05)),
    "paper": _paper(),
}
"""By name, then by flow: a codec, a controller or that there is none, and whether it is residual."""
DEFAULT, NARROW = "quality", "fine"
"""Whose flows are taken if nothing is set, and of narrow models."""
AUTO = "auto"
"""The preset's name as long as nothing has been asked for, and the model's width is not known."""


def let_go(tree: Tree, changed: Collection[str]) -> None:
    """Take what came with a preset's codec out of a tree, for the flows that get another one.

    Args:
        tree: of settings, before the change.
        changed: dotted keys that are about to be set.
    """
    for flow in AT_CUT:
        flows = tree.get("flows")
        settings = flows.get(flow) if isinstance(flows, dict) else None
        if f"flows.{flow}.codec" not in changed or not isinstance(settings, dict):
            continue
        for preset in PRESETS.values():
            if settings.get("codec") != preset[flow]["codec"]:
                continue
            for key in {"controller", "residual"} & settings.keys():
                if f"flows.{flow}.{key}" not in changed and settings[key] == preset[flow][key]:
                    del settings[key]
