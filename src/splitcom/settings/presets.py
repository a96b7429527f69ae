"""What the word in `preset = "balanced"` stands for; knows no codec, only its text."""

from typing import Any

from splitcom.flows import AT_CUT, FLOWS

Tree = dict[str, Any]


def _preset_of(activation: float, gradient: float, tail: tuple[float, float]) -> Tree:
    """Flows with these steps; finer ones at the `tail`, of activations and of gradients.

    What leaves the body is coded as what it adds to what has come in, so its steps are in units of that. When fronts
    learn no more, activations are sent in half of their step.
    """
    predicted = "predict > {} > uniform({}, dead_zone=0.3, prompt={}) > range"
    summed = "predict(window=0, rank=0) > klt(threshold=0.7, centre=sum) > uniform({}) > range"
    trees: Tree = {}
    for flow in (FLOWS[name] for name in AT_CUT):
        match flow.content, flow.cut:
            case "activation", "front":
                codec = predicted.format("klt", activation, "2, first=0")
            case "activation", _:
                codec = predicted.format("klt(threshold=0.7)", tail[0], 6)
            case _, "front":
                codec = summed.format(gradient)
            case _:
                codec = summed.format(tail[1])
        freezes = (flow.content, flow.cut) == ("activation", "front")
        controller = f"freeze({activation}, {activation / 2})" if freezes else None
        trees[flow.name] = {"codec": codec, "controller": controller}
        if flow.base is not None:
            trees[flow.name]["residual"] = True
    return trees


EVALUATION = "predict > klt > uniform(0.125) > range"
"""The codec of held-out samples, whatever the preset: a loss that is told wrong saves nothing."""
PRESETS = {
    "quality": _preset_of(0.3, 1.7, tail=(0.15, 0.42)),
    "balanced": _preset_of(0.7, 2.5, tail=(0.45, 1.05)),
}
"""By name, then by flow: a codec, and a controller or that there is none."""
