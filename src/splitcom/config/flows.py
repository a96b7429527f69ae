"""The settings of flows: a section for each flow that has a codec of its own, and what controllers set of them."""

from typing import TYPE_CHECKING, Any

from pydantic import create_model, model_validator

from splitcom.codecs import parse
from splitcom.codecs.config import CodecText
from splitcom.control import parse as parse_controller
from splitcom.control.config import ControllerText
from splitcom.flows import FLOWS
from splitcom.settings import Section


class FlowConfig(Section):
    """How one flow is coded, and what sets its threshold or step."""

    codec: CodecText
    controller: ControllerText | None = None  # "bangbang(0.95, 0.995)"; None: the codec's own
    residual: bool = False  # of what leaves the body in the U-shape, code what it adds to what has come in


class FlowSections(Section):
    """How each flow is coded: a section for every one that has a codec of its own in the table of flows."""

    def __getitem__(self, flow: str) -> FlowConfig:
        settings: FlowConfig = getattr(self, flow)
        return settings

    @model_validator(mode="before")
    @classmethod
    def _codecs_that_are_not_given(cls, flows: Any) -> Any:
        """A flow of which something else is set keeps its default codec."""
        if not isinstance(flows, dict):
            return flows
        codecs = {flow: field.default.codec for flow, field in cls.model_fields.items()}
        return {
            flow: {"codec": codecs[flow], **given} if flow in codecs and isinstance(given, dict) else given
            for flow, given in flows.items()
        }


if TYPE_CHECKING:
    FlowsConfig = FlowSections
else:
    FlowsConfig = create_model(
        "FlowsConfig",
        __base__=FlowSections,
        __doc__=FlowSections.__doc__,
        **{
            flow.name: (FlowConfig, FlowConfig(codec=flow.codec))
            for flow in FLOWS.values()
            if flow.codec is not None
        },
    )


def fitting_knob(setting: str, controller_text: str, codec: str) -> str:
    """What a controller sets of a codec; raises ValueError, naming the `setting`, where it cannot."""
    controller, knob = parse_controller(controller_text), parse(codec).knob
    if knob is None:
        raise ValueError(
            f"{setting} sets a threshold or step, but the codec {codec!r} has none; begin it with a temporal stage, "
            f"such as 'temporal(0.98) > {codec}', or leave the controller out"
        )
    (low, high), (lowest, highest) = controller.bounds, knob.limits
    if low < lowest or high > highest:
        raise ValueError(
            f"{setting} sets {knob.name}s of {low:g} to {high:g}; those of {codec!r} lie in {lowest:g} to {highest:g}"
        )
    if controller.saves_upwards and not knob.saves_upwards:
        raise ValueError(
            f"{setting} raises what it sets to send less, but {codec!r} sends more by a higher {knob.name}; take "
            "another controller, such as bangbang, or a codec with a step"
        )
    return knob.name
