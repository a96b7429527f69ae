"""One tree of settings: every default lives here; TOML in, TOML out.

All sections are frozen and keyword-only, and refuse unknown keys. Units are in the names. `Config.load` reads a file,
`Config.to_toml` writes one that reads back to an equal configuration.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

import tomli_w
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from splitcom.aggregation import parse as parse_aggregator
from splitcom.codecs import parse
from splitcom.config_tree import merged, read_text, read_tree
from splitcom.control import parse as parse_controller
from splitcom.errors import ConfigError, SpecError
from splitcom.flows import AT_CUT, FLOWS, WITH_BASE, cut_flows

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]


def _canonical(read: Callable[[str], object], text: str) -> str:
    try:
        return str(read(text))
    except SpecError as error:
        raise ValueError(str(error)) from error


SHARED = "shared"  # the name of the controller that several flows have together
CodecText = Annotated[str, AfterValidator(partial(_canonical, parse))]
ControllerText = Annotated[str, AfterValidator(partial(_canonical, parse_controller))]
AggregatorText = Annotated[str, AfterValidator(partial(_canonical, parse_aggregator))]


class Section(BaseModel):
    """A part of the tree."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(Section):
    """The base model and where it is cut."""

    source: str = "bundled"  # "bundled", a local folder, or a name on the hub
    cut: Positive = 2  # blocks in the front
    tail_blocks: Annotated[int, Field(ge=0)] = 0  # blocks that the client has behind the body; 0: no U-shape
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "auto"  # "auto" takes cuda where there is one
    attention: Literal["eager", "sdpa"] = "sdpa"


class LoraConfig(Section):
    """The trainable adapters; the same on both sides of the cut."""

    rank: Positive = 8
    alpha: float = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: list[str] | None = None  # module names; None takes peft's choice for the model's family
    train_front: bool = True  # false: the frozen front, a baseline
    train_head: bool = False  # LoRA on the LM head too; impossible where it is tied to the embeddings


class DataConfig(Section):
    """Where the text comes from and how a row becomes prompt and response."""

    task: Literal["generation", "classification"] = "generation"
    source: str = "generated"  # "generated", a file, a folder, or "team/name:configuration[split]" on the hub
    domain: str | None = None  # of the generated data; None takes the one the bundled model has not seen
    prompt: str = "{mr} =>"  # a template over the columns; "" trains on the whole response
    response: str = "text"  # the column that holds it; in classification the class of the prompt
    labels: list[str] | None = None  # the classes, in the order of the logits; None takes those in the rows
    samples: Positive | None = None  # of all clients together; None takes all (generated: 600)
    held_out: str | None = None  # a second source for evaluation; None sets rows of `source` aside
    held_out_samples: Positive = 100
    max_tokens: Annotated[int, Field(ge=2)] = 256

    @field_validator("labels")
    @classmethod
    def _are_classes(cls, labels: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if labels is not None and info.data.get("task") != "classification":
            raise ValueError("these are for data.task = 'classification'; set that, or leave them out")
        if labels is not None and len(set(labels)) < max(len(labels), 2):
            raise ValueError("expected two classes or more, each once")
        return labels

    @property
    def classes(self) -> list[str] | None:
        """The classes of classification, None for generation; ConfigError where they are not known."""
        if self.task == "generation":
            return None
        if self.labels is None:
            raise ConfigError(
                "data.labels is missing: list the classes here, such as labels = ['negative', 'positive'], since the "
                "rows that hold them are not at this party"
            )
        return self.labels


class PartitionConfig(Section):
    """Which client gets which rows."""

    kind: Literal["iid", "dirichlet_label", "dirichlet_length", "column"] = "iid"
    alpha: Annotated[float, Field(gt=0)] = 1.0  # concentration of the Dirichlet kinds; small is uneven
    column: str | None = None  # the label for dirichlet_label, the value for column


class TrainingConfig(Section):
    """How long and how fast."""

    rounds: Positive = 5
    local_epochs: Positive = 1  # passes of a client over its data per round
    batch_size: Positive = 8  # per client
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: NonNegative = 0.01
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.02  # part of the run
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0  # per part: no party knows the other's norm
    body_update: Literal["parallel", "sequential"] = "parallel"
    checkpoint_every: Positive = 1  # rounds
    split: bool = True  # false: clients train the whole model and only adapters travel


class AsynchronousConfig(Section):
    """How an update is merged that comes s versions of the shared adapter after the one it began from."""

    buffer: Positive = (
        1  # updates that are merged together (FedBuff's K); 1 merges each as it comes (FedAsync)
    )
    mixing: Fraction = 0.6  # alpha: the part of the merged adapter that a fresh update makes up
    staleness: NonNegative = 0.5  # a: the update's part is alpha * (1 + s) ** -a


class FederationConfig(Section):
    """The clients of a round, who waits for whom, and how their adapters travel."""

    clients: Positive = 3
    sample: Fraction = 1.0  # part of the clients in each round
    # how adapters become one, beside fedavg: fedavgm(momentum=0.9), fedadam(lr=0.01), trimmed_mean(0.2), median
    aggregator: AggregatorText = "fedavg"
    adapter_dtype: Literal["float32", "bfloat16", "float16"] = "float16"
    drop_after_s: Annotated[float, Field(gt=0)] | None = None  # a lost client; None waits for ever
    min_clients: Positive = 1  # that a round can end with
    scheduling: Literal["synchronous", "asynchronous"] = "synchronous"
    deadline_s: Annotated[float, Field(gt=0)] | None = None  # of a round; it ends without who is late
    over_select: NonNegative = 0.0  # sample this part more, and end the round with the first to finish
    asynchronous: AsynchronousConfig = AsynchronousConfig()

    @model_validator(mode="after")
    def _of_one_scheduling(self) -> Self:
        if self.scheduling == "asynchronous":
            if self.deadline_s is not None or self.over_select:
                raise ValueError(
                    "deadline_s and over_select are for scheduling = 'synchronous': asynchronously nobody is waited for"
                )
            if self.asynchronous.buffer > self.num_sampled:
                raise ValueError(
                    f"federation.asynchronous.buffer = {self.asynchronous.buffer}: a round has {self.num_sampled} "
                    "updates, as many as clients are sampled; lower it"
                )
        if self.over_select and self.num_sampled == self.clients:
            raise ValueError(
                f"over_select = {self.over_select:g}: all {self.clients} clients are sampled already; "
                "lower sample, such as sample = 0.5"
            )
        return self

    @model_validator(mode="after")
    def _enough_to_aggregate(self) -> Self:
        least = parse_aggregator(self.aggregator).min_updates
        field, count = "clients and sample", self.num_sampled
        if self.scheduling == "asynchronous":
            field, count = "asynchronous.buffer", self.asynchronous.buffer
        if count < least:
            raise ValueError(
                f"aggregator = {self.aggregator!r} of {count} updates is no more than their mean, it needs {least} or "
                f"more; raise {field}, or take another one"
            )
        return self

    @property
    def num_sampled(self) -> int:
        """How many clients' updates make a round."""
        return max(1, round(self.clients * self.sample))

    @property
    def waits_for_all(self) -> bool:
        """Whether every step and every round waits for all its clients, so that no bit depends on time."""
        return self.scheduling == "synchronous" and self.deadline_s is None and not self.over_select


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


class ControlConfig(Section):
    """One controller for several flows, and where the controllers of a run begin."""

    controller: ControllerText | None = None  # for all flows that can be steered, but have none of their own
    start_from: str | None = None  # a run folder: go on with what its controllers have learned


class ReferencesConfig(Section):
    """Where references live."""

    store: Literal["memory", "file"] = "memory"
    precision: Literal["fp32", "fp16", "bf16"] = "fp16"
    # per client, flow and side, of whole references, also where a side keeps projections; "file" needs one
    limit_mb: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _file_is_bounded(self) -> Self:
        if self.store == "file" and self.limit_mb is None:
            raise ValueError("limit_mb is needed where store is 'file', such as limit_mb = 1000")
        return self


class LinkConfig(Section):
    """The link of a client, for the virtual clock; None is infinitely fast."""

    up_mbps: Annotated[float, Field(gt=0)] | None = None
    down_mbps: Annotated[float, Field(gt=0)] | None = None
    latency_ms: NonNegative = 0.0
    jitter_ms: NonNegative = 0.0  # standard deviation, added to the latency
    # compute time of a client's step, in the U-shape of each of its two halves; None measures it
    step_s: NonNegative | None = None


class LinksConfig(LinkConfig):
    """The link of every client, with exceptions by client name."""

    server_step_s: NonNegative | None = None
    clients: dict[str, LinkConfig] = {}


class EvaluationConfig(Section):
    """Held-out loss after a round; its traffic is counted apart."""

    every: Positive = 1  # rounds
    batch_size: Positive = 16
    codec: CodecText = "none"
    # of generation, not of classification
    generate: Annotated[int, Field(ge=0)] = 2  # sentences generated before and after training
    text_samples: Annotated[int, Field(ge=0)] = (
        0  # held-out prompts whose continuations are scored at the end
    )
    beams: Positive = 1  # 1: greedy
    max_new_tokens: Positive = 64

    @field_validator("codec")
    @classmethod
    def _self_contained(cls, codec: str) -> str:
        if parse(codec).needs_references:
            raise ValueError(
                "builds on what a sample sent before, and evaluation keeps nothing of it; use a codec without temporal "
                "and delta, such as 'none' or 'int8'"
            )
        return codec


class VariantConfig(Section):
    """One entry of a comparison: a method with some settings changed."""

    name: str
    group: str = ""  # compared with the splitlora of the same group
    method: str = "splitcom"
    set: dict[str, Any] = {}


class ComparisonConfig(Section):
    """What `compare` runs."""

    seeds: list[int] = [0]
    variants: list[VariantConfig] = []


class Config(Section):
    """Everything a run needs.

    >>> config = Config(seed=3).override({"training.rounds": 2})
    >>> config.training.rounds, Config.from_toml(config.to_toml()) == config
    (2, True)
    """

    method: str = "splitcom"
    seed: int = 0
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    data: DataConfig = DataConfig()
    partition: PartitionConfig = PartitionConfig()
    training: TrainingConfig = TrainingConfig()
    federation: FederationConfig = FederationConfig()
    flows: FlowsConfig = FlowsConfig()
    control: ControlConfig = ControlConfig()
    references: ReferencesConfig = ReferencesConfig()
    links: LinksConfig = LinksConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    comparison: ComparisonConfig = ComparisonConfig()

    @model_validator(mode="after")
    def _u_shape_waits_for_all(self) -> Self:
        if self.model.tail_blocks and not self.federation.waits_for_all:
            raise ValueError(
                f"model.tail_blocks = {self.model.tail_blocks}: in the U-shape each step waits for the clients' tails; "
                "leave out federation.deadline_s, over_select and scheduling = 'asynchronous', or set tail_blocks = 0"
            )
        return self

    @model_validator(mode="after")
    def _links_of_known_clients(self) -> Self:
        known = self.client_names
        for name in self.links.clients:
            if name not in known:
                raise ValueError(f"links.clients.{name}: no such client; there are {', '.join(known)}")
        return self

    @model_validator(mode="after")
    def _tail_of_a_split_model(self) -> Self:
        if self.model.tail_blocks and not self.training.split:
            raise ValueError(
                f"model.tail_blocks = {self.model.tail_blocks}: with training.split = false the client has all of "
                "the model; set one of them back"
            )
        return self

    @model_validator(mode="after")
    def _residuals_have_a_base(self) -> Self:
        for flow in AT_CUT:
            base = FLOWS[flow].base
            if not self.flows[flow].residual:
                continue
            if base is None:
                raise ValueError(
                    f"flows.{flow}.residual = true: it is for {' and '.join(WITH_BASE)}, which leave the body"
                )
            codec = self.flows[base].codec
            if self.model.tail_blocks and not parse(codec).knows_the_receiver:
                raise ValueError(
                    f"flows.{flow}.residual = true: it needs what has been sent of {base} at both ends, of which "
                    f"the sender of {codec!r} keeps projections only; take another codec there, or leave residual out"
                )
        return self

    @model_validator(mode="after")
    def _controllers_fit(self) -> Self:
        flow_with: dict[str, str] = {}
        for flow, (name, text) in self.steering.items():
            field = "control.controller" if name == SHARED else f"flows.{flow}.controller"
            knob = _fitting_knob(f"{field} = {text!r}", text, self.cut_flows[flow].codec)
            leading = self.steering.get("activation_up")
            if parse_controller(text).can_freeze and not (
                leading and parse_controller(leading[1]).can_freeze
            ):
                raise ValueError(
                    f"{field} = {text!r}: it is that of flows.activation_up which freezes fronts; give that flow one "
                    "that does, too"
                )
            if name == SHARED:
                flow_with[knob] = flow
        if len(flow_with) > 1:
            what = " and ".join(f"the {knob} of {flow}" for knob, flow in flow_with.items())
            raise ValueError(
                f"control.controller = {self.control.controller!r} would set {what}: no number is both; give one of "
                "them a controller of its own"
            )
        if self.control.controller is not None and not flow_with:
            raise ValueError(
                f"control.controller = {self.control.controller!r}: no flow has a threshold or step and no controller "
                "of its own; begin a codec with a temporal stage, such as 'temporal(0.98) > int8'"
            )
        return self

    @property
    def cut_flows(self) -> dict[str, FlowConfig]:
        """The flows that cross a cut of this run's model, by name."""
        return {flow: self.flows[flow] for flow in cut_flows(has_tail=bool(self.model.tail_blocks))}

    @property
    def steering(self) -> dict[str, tuple[str, str]]:
        """By flow that a controller sets: the controller's name, that of the flow or SHARED, and its text."""
        steering = {}
        for flow, settings in self.cut_flows.items():
            if settings.controller is not None:
                steering[flow] = (flow, settings.controller)
            elif self.control.controller is not None and parse(settings.codec).knob is not None:
                steering[flow] = (SHARED, self.control.controller)
        return steering

    @property
    def client_names(self) -> list[str]:
        """The names clients have in a simulation."""
        return [f"client-{index}" for index in range(self.federation.clients)]

    @classmethod
    def load(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read a TOML file; raises ConfigError naming file, key, value and remedy.

        Where the file has `extends = "base.toml"` (relative to itself), it changes what that one says; where it has
        `preset = "balanced"`, flows whose codec it does not give have that preset's (see `config_tree.PRESETS`).
        """
        return cls._from_tree(merged(read_tree(Path(path)), overrides or {}), str(path))

    @classmethod
    def from_toml(
        cls, text: str, where: str = "configuration", overrides: Mapping[str, Any] | None = None
    ) -> Self:
        """Read TOML text; `overrides` maps dotted keys to values and wins over the text."""
        return cls._from_tree(merged(read_text(text, where), overrides or {}), where)

    @classmethod
    def _from_tree(cls, tree: Mapping[str, Any], where: str) -> Self:
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise ConfigError("\n".join(_explain(cls, detail, where) for detail in error.errors())) from error

    def to_toml(self) -> str:
        """The whole tree, defaults included; None is left out, as TOML has no such value."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))

    def override(self, changes: Mapping[str, Any]) -> Self:
        """A copy with dotted keys changed; raises ConfigError like `load`."""
        return self._from_tree(merged(self.model_dump(), changes), "override")


def _fitting_knob(setting: str, controller_text: str, codec: str) -> str:
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


def _explain(cls: type[BaseModel], detail: Any, where: str) -> str:
    """Turn pydantic's description of one error into one line that names file, key, value and remedy."""
    path = [str(part) for part in detail["loc"]]
    key = ".".join(path)
    if detail["type"] == "extra_forbidden":
        known = _keys(cls, path[:-1])
        close = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"
        return f"{where}: {key}: unknown key; {hint}"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where}: {key or 'run'} = {detail['input']!r}: {message}" if key else f"{where}: {message}"


def _keys(cls: type[BaseModel], path: Iterable[str]) -> list[str]:
    for part in path:
        field = cls.model_fields.get(part)
        if field is None:
            continue
        candidates = [field.annotation, *get_args(field.annotation)]
        cls = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), cls)
    return list(cls.model_fields)
