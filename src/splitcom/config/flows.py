"""The settings of flows: a section for each flow that has a codec of its own, and what controllers set of them."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, create_model, model_validator

from splitcom.codecs import parse
from splitcom.codecs.config import CodecText
from splitcom.codecs.lattice import LatticeCodec
from splitcom.control import parse as parse_controller
from splitcom.control.bangbang import BangBang
from splitcom.control.config import ControllerText
from splitcom.flows import AT_CUT, FLOWS
from splitcom.settings import Section
from splitcom.settings.presets import DEFAULT, PRESETS


class FlowConfig(Section):
    """How one flow is coded, and what sets its threshold or step."""

    codec: CodecText
    """The flow's codec, such as "temporal(0.98) > delta > int4 > zstd"."""
    controller: ControllerText | None = None
    """What sets the codec's threshold or step each round, such as "bangbang(0.95, 0.995)"; None leaves it as
    the codec says.
    """
    residual: bool = False
    """Whether a flow that leaves the body in the U-shape is coded as its difference to what has come in."""


def _holds_whole_references(text: str) -> str:
    codec = parse(text)
    if codec.needs_references and (isinstance(codec, LatticeCodec) or not codec.knows_the_receiver):
        raise ValueError(
            "needs references, which adapters do not have: both ends only hold the last adapter; use "
            "delta or temporal with plain numbers, such as 'delta > topk(0.1) > int8 > zstd'"
        )
    return text


class AdapterFlowConfig(Section):
    """How adapters are coded; both ends have the last shared adapter, which codecs can build on."""

    codec: Annotated[CodecText, AfterValidator(_holds_whole_references)]
    """The codec of the adapters, such as "fp16" or "delta > topk(0.1) > int8 > zstd"."""
    codec_a: Annotated[CodecText, AfterValidator(_holds_whole_references)] | None = None
    """A codec of its own for LoRA's matrices A; false: the same codec as for all others."""
    error_feedback: bool = False
    """Whether what a codec has left out or rounded off is kept and added to what is sent the next time."""


class FlowSections(Section):
    """How each flow is coded: a section for every one that has a codec of its own in the table of flows."""

    def __getitem__(self, flow: str) -> FlowConfig:
        """The section of a flow at the cut."""
        settings: FlowConfig = getattr(self, flow)
        return settings

    def adapter(self, flow: str) -> AdapterFlowConfig:
        """The section of a flow that carries adapters."""
        settings: AdapterFlowConfig = getattr(self, flow)
        return settings

    def codec(self, flow: str) -> str:
        """The codec's text of any flow that has one."""
        return str(getattr(self, flow).codec)

    @model_validator(mode="before")
    @classmethod
    def _codecs_that_are_not_given(cls, flows: Any) -> Any:
        """A flow whose codec is not set keeps the default one, and what comes with it."""
        if not isinstance(flows, dict):
            return flows
        defaults = {flow: field.default.model_dump() for flow, field in cls.model_fields.items()}
        return {
            flow: {**defaults[flow], **given}
            if flow in defaults and isinstance(given, dict) and "codec" not in given
            else given
            for flow, given in flows.items()
        }


def _sections() -> dict[str, FlowConfig | AdapterFlowConfig]:
    """By flow that has a codec of its own, its settings if nothing is set."""
    at_cut = {name: FlowConfig(**PRESETS[DEFAULT][name]) for name in AT_CUT}
    adapters = {f.name: AdapterFlowConfig(codec=f.codec) for f in FLOWS.values() if f.codec is not None}
    return {**at_cut, **adapters}


if TYPE_CHECKING:
    FlowsConfig = FlowSections
else:
    FlowsConfig = create_model(
        "FlowsConfig",
        __base__=FlowSections,
        __doc__=FlowSections.__doc__,
        **{flow: (type(settings), settings) for flow, settings in _sections().items()},
    )


def fitting_knob(setting: str, controller_text: str, codec: str) -> str:
    """What a controller sets of a codec; raises ValueError, naming the `setting`, if it cannot."""
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
            f"{setting} raises the {knob.name} to send less, but {codec!r} sends more at a higher one; "
            "take another controller, such as bangbang, or a codec with a step"
        )
    if isinstance(controller, BangBang) and knob.saves_upwards and controller.saving < controller.careful:
        raise ValueError(
            f"{setting} is careful at {controller.careful:g} and saves at {controller.saving:g}, which is "
            f"right for thresholds; but it would set the {knob.name} of {codec!r}, which sends less the "
            "higher it is; swap the two numbers, or give the flow a codec with a temporal stage"
        )
    return knob.name


def check_rest(
    setting: str,
    controller_text: str,
    leading: tuple[str, str] | None,
    rounds: int | None,
    *,
    is_standard: bool,
) -> None:
    """Raise ValueError, naming the `setting`, if its controller has fronts rest where they cannot.

    Args:
        setting: what stands in the settings.
        controller_text: the controller.
        leading: name and text of that of activation_up.
        rounds: those of the run; None if fronts do not learn at all.
        is_standard: whether this is the standard form, in which all fronts have one length.
    """
    if not (rest := parse_controller(controller_text).resting_rounds):
        return
    why = None
    if leading is None or leading[1] != controller_text:
        why = "fronts rest by the controller of flows.activation_up alone; leave it out here"
    elif not is_standard:
        why = (
            "it is for the standard form with one cut for all clients; in the U-shape the body would rest too, "
            "and with several cuts the blocks between them; leave it out"
        )
    elif rounds is not None and rest >= rounds:
        why = (
            f"with training.rounds = {rounds} fronts would never learn; let them rest for fewer rounds, or set "
            "lora.train_front = false"
        )
    if why is not None:
        raise ValueError(f"{setting}: rest = {rest}: {why}")
