"""One tree of settings: the sections joined, and what must hold between them; TOML in, TOML out.

All sections are frozen and keyword-only, and refuse unknown keys. Units are in the names. `Config.load` reads a file,
`Config.to_toml` writes one that reads back to an equal configuration.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import ValidationError, model_validator

from splitcom.codecs import parse
from splitcom.codecs.config import ReferencesConfig
from splitcom.config.client import ClientConfig
from splitcom.config.clients import ClientsConfig
from splitcom.config.comparison import ComparisonConfig
from splitcom.config.engine import EngineConfig
from splitcom.config.evaluation import EvaluationConfig
from splitcom.config.federation import FederationConfig
from splitcom.config.flows import FlowConfig, FlowsConfig, check_rest, fitting_knob
from splitcom.config.links import LinkConfig, LinksConfig
from splitcom.config.training import TrainingConfig
from splitcom.config.unequal import check_unequal
from splitcom.control import parse as parse_controller
from splitcom.control.config import ControlConfig
from splitcom.data.config import DataConfig, PartitionConfig
from splitcom.errors import ConfigError
from splitcom.flows import AT_CUT, FLOWS, WITH_BASE, cut_flows
from splitcom.models.config import LoraConfig, ModelConfig
from splitcom.privacy import parse as parse_mechanism
from splitcom.settings import NonNegativeInt, Section, without_none
from splitcom.settings.explain import explain
from splitcom.settings.place import with_places
from splitcom.settings.presets import Tree
from splitcom.settings.tree import merged, read_text, read_tree, with_preset

SHARED = "shared"  # the name of the controller that several flows have together


class Config(Section):
    """All settings of a run; what is not given has its default. `splitcom settings` explains each of them.

    A configuration does not change: `override` gives another one. Raises ConfigError, naming the setting, its value
    and what to do, if a setting is unknown or does not go with the others.

    >>> config = Config(seed=3).override({"training.rounds": 2})
    >>> config.training.rounds, Config.from_toml(config.to_toml()) == config
    (2, True)
    """

    method: str = "splitcom"
    """The method: splitcom; splitlora (the same without codecs); frozen_front (the clients' blocks do not
    learn); split_ft (clients' cuts move); split_lite and aq_sgd (they send differences, of low rank or in
    few bits); res_bm (a bottleneck that learns); sf_prompt (U-shape, a soft prompt, only the hardest
    samples); centralised (one party has everything). In the others each client has the whole model: fedlora;
    ffa_lora (only LoRA's matrices B learn), fedsa_lora (only A is shared), fedex_lora (products are
    averaged), fda_opt (adapters are averaged once clients have moved apart) and eco_lora (clients send
    parts of adapters).
    """
    preset: Literal["auto", "fine", "quality", "balanced", "paper"] = "auto"
    """What flows have that are not set themselves: predicted and transformed tensors, in the finest steps with fine, in
    the largest with balanced; or SplitCom's own codecs (paper). auto: quality, and fine for models narrower than 256.
    """
    seed: NonNegativeInt = 0
    """The seed of everything that is drawn at random."""
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    data: DataConfig = DataConfig()
    partition: PartitionConfig = PartitionConfig()
    training: TrainingConfig = TrainingConfig()
    federation: FederationConfig = FederationConfig()
    client: ClientConfig = ClientConfig()
    clients: ClientsConfig = ClientsConfig()
    engine: EngineConfig = EngineConfig()
    flows: FlowsConfig = FlowsConfig()
    control: ControlConfig = ControlConfig()
    references: ReferencesConfig = ReferencesConfig()
    links: LinksConfig = LinksConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    comparison: ComparisonConfig = ComparisonConfig()

    def __init__(self, **settings: Any) -> None:
        """Raises ConfigError, as `load` does."""
        try:
            super().__init__(**with_preset(settings, "Config"))
        except ValidationError as error:
            raise ConfigError(explain(error, type(self), "Config")) from error

    @model_validator(mode="after")
    def _u_shape_waits_for_all(self) -> Self:
        if self.model.tail_blocks and not self.federation.waits_for_all:
            raise ValueError(
                f"model.tail_blocks = {self.model.tail_blocks}: in the U-shape each step waits for the clients' tails; "
                "leave out federation.deadline_s, over_select and scheduling = 'asynchronous', or set tail_blocks = 0"
            )
        return self

    @model_validator(mode="after")
    def _own_settings_of_known_clients(self) -> Self:
        self.clients.check_names(self.known_clients)
        check_unequal(self)
        return self

    @model_validator(mode="after")
    def _tail_of_a_split_model(self) -> Self:
        if self.model.tail_blocks and not self.training.split:
            raise ValueError(
                f"model.tail_blocks = {self.model.tail_blocks}: with training.split = false the client has "
                "the whole model, so it has no tail; leave one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _labels_for_more_steps(self) -> Self:
        steps, tail_blocks = self.training.body_steps, self.model.tail_blocks
        if steps > 1 and (tail_blocks or not self.training.split):
            reason = f"model.tail_blocks = {tail_blocks}" if tail_blocks else "training.split = false"
            raise ValueError(
                f"training.body_steps = {steps}: with {reason} the server has no labels to take further steps with; "
                "set body_steps = 1"
            )
        return self

    @model_validator(mode="after")
    def _room_for_text(self) -> Self:
        if self.data.max_tokens < self.lora.prompt_tokens + 2:
            raise ValueError(
                f"lora.prompt_tokens = {self.lora.prompt_tokens}: data.max_tokens = {self.data.max_tokens} leaves no "
                "room for text; lower the one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _noise_on_what_is_sent(self) -> Self:
        if self.client.privacy is None:
            return self
        if not self.training.split:
            raise ValueError(
                f"client.privacy = {self.client.privacy!r}: it adds noise to what crosses the cut, and with "
                "training.split = false nothing does; leave it out, or give federation.aggregator noise"
            )
        if self.model.tail_blocks and not parse_mechanism(self.client.privacy).gradients:
            raise ValueError(
                f"client.privacy = {self.client.privacy!r}: in the U-shape the tail's gradients are sent too, "
                "and need noise of their own; add gradients, such as gradients=0.1"
            )
        return self

    @model_validator(mode="after")
    def _noise_on_classes(self) -> Self:
        if self.client.label_noise is not None and self.data.task == "generation":
            raise ValueError(
                f"client.label_noise = {self.client.label_noise!r}: it is for classes, and with data.task = "
                "'generation' the labels are the text; leave it out, or keep labels at the clients with "
                "model.tail_blocks = 1"
            )
        return self

    @model_validator(mode="after")
    def _sums_of_whole_updates(self) -> Self:
        secure, federation = self.federation.secure_aggregation, self.federation
        up = self.flows.adapter("adapter_up")
        if secure is not None and (up.codec not in ("fp16", "none") or up.codec_a or up.error_feedback):
            raise ValueError(
                f"federation.secure_aggregation = {secure:g}: adapters are sent as whole numbers under masks, "
                f"which no codec can pack; flows.adapter_up.codec = {up.codec!r} cannot be used; set it to "
                "'none', and leave codec_a and error_feedback out"
            )
        if secure is not None and not self.training.split and federation.max_weight_ratio is not None:
            raise ValueError(
                f"federation.secure_aggregation = {secure:g}: the number of labels is masked too, so the "
                f"server cannot check federation.max_weight_ratio = {federation.max_weight_ratio:g}; set that "
                "to false if you trust all clients"
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
                    f"flows.{flow}.residual = true: only {' and '.join(WITH_BASE)} can have it, which leave the "
                    "body; leave it out"
                )
            codec = self.flows[base].codec
            if self.model.tail_blocks and not parse(codec).knows_the_receiver:
                raise ValueError(
                    f"flows.{flow}.residual = true: it needs what has been sent of {base} at both ends, and "
                    f"{codec!r} keeps only projections at the sender; take another codec there, or leave residual "
                    "out"
                )
        return self

    @model_validator(mode="after")
    def _rounds_of_one_kind(self) -> Self:
        if self.training.max_steps is not None and self.federation.variance.estimate is not None:
            raise ValueError(
                f"training.max_steps = {self.training.max_steps}: with federation.variance.estimate = "
                f"{self.federation.variance.estimate!r} nobody knows beforehand how many steps a round has; "
                "leave one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _clipped_is_what_is_sent(self) -> Self:
        if self.client.clip_update is not None and self.flows.adapter("adapter_up").error_feedback:
            raise ValueError(
                f"client.clip_update = {self.client.clip_update:g}: with flows.adapter_up.error_feedback = true what "
                "is kept from earlier rounds is added after clipping, beyond the bound; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _controllers_fit(self) -> Self:
        flow_with: dict[str, str] = {}
        for flow, (name, text) in self.steering.items():
            field = "control.controller" if name == SHARED else f"flows.{flow}.controller"
            knob = fitting_knob(f"{field} = {text!r}", text, self.cut_flows[flow].codec)
            leading = self.steering.get("activation_up")
            rounds = self.training.rounds if self.lora.front_learns else None
            is_standard = not self.model.tail_blocks and len(self.cuts) == 1
            check_rest(f"{field} = {text!r}", text, leading, rounds, is_standard=is_standard)
            if parse_controller(text).can_freeze and not (
                leading and parse_controller(leading[1]).can_freeze
            ):
                raise ValueError(
                    f"{field} = {text!r}: fronts are frozen by the controller of flows.activation_up; give that "
                    "flow such a controller, too"
                )
            if name == SHARED:
                flow_with[knob] = flow
        if len(flow_with) > 1:
            what = " and ".join(f"the {knob} of {flow}" for knob, flow in flow_with.items())
            raise ValueError(
                f"control.controller = {self.control.controller!r} would set {what}, which need different "
                "numbers; give one of them a controller of its own"
            )
        if self.control.controller is not None and not flow_with:
            raise ValueError(
                f"control.controller = {self.control.controller!r}: no flow has a threshold or step and no controller "
                "of its own; begin a codec with a temporal stage, such as 'temporal(0.98) > int8'"
            )
        return self

    @property
    def resting_rounds(self) -> int:
        """Rounds at the beginning of the run in which fronts do not learn; the body alone does."""
        leading = self.steering.get("activation_up") if self.training.split else None
        return parse_controller(leading[1]).resting_rounds if leading and self.lora.front_learns else 0

    @property
    def cut_flows(self) -> dict[str, FlowConfig]:
        """The flows that cross a cut of this run's model, by name."""
        return {flow: self.flows[flow] for flow in cut_flows(has_tail=bool(self.model.tail_blocks))}

    @property
    def steering(self) -> dict[str, tuple[str, str]]:
        """For each flow that a controller sets: the controller's name (the flow's, or SHARED), and its text."""
        steering = {}
        for flow, settings in self.cut_flows.items():
            if settings.controller is not None:
                steering[flow] = (flow, settings.controller)
            elif self.control.controller is not None and parse(settings.codec).knob is not None:
                steering[flow] = (SHARED, self.control.controller)
        return steering

    @property
    def codes_evaluation(self) -> bool:
        """Whether held-out losses are measured on coded hidden states, and so differ a little from exact ones."""
        return self.training.split and self.evaluation.codec not in ("none", "fp16")

    @property
    def client_names(self) -> list[str]:
        """The names of a simulation's clients."""
        return [f"client-{index}" for index in range(self.federation.clients)]

    @property
    def known_clients(self) -> list[str]:
        """The names that `clients` may have settings for: those of a simulation, and those given for a network."""
        return [*self.client_names, *(self.federation.names or ())]

    def of_client(self, name: str) -> Self:
        """The configuration of one client: its own settings, where it has some, in place of those for all."""
        if not self.clients.given:
            return self
        own = self.clients.of(name)
        changes: dict[str, dict[str, Any]] = {
            "training": {"batch_size": own.batch_size},
            "model": {"device": own.device, "cut": own.cut},
            "lora": {"rank": own.rank, "alpha": None if own.rank is None else self.alpha_of(own.rank)},
        }
        sections: dict[str, Any] = {"clients": ClientsConfig()}
        if own.most_cut is not None:
            cuts = self.federation.cuts.model_copy(update={"most": own.most_cut})
            sections["federation"] = self.federation.model_copy(update={"cuts": cuts})
        for section, values in changes.items():
            given = {key: value for key, value in values.items() if value is not None}
            if given:
                sections[section] = getattr(self, section).model_copy(update=given)
        return self.model_copy(update=sections)

    def alpha_of(self, rank: int) -> float:
        """LoRA's alpha for an adapter of this rank, with which LoRA scales it like those of the common rank."""
        part = rank / self.lora.rank
        return self.lora.alpha * (part**0.5 if self.lora.use_rslora else part)

    @property
    def for_all(self) -> Self:
        """The configuration of a client without settings of its own."""
        return self.model_copy(update={"clients": ClientsConfig()})

    @property
    def cuts(self) -> list[int]:
        """The cuts that clients have, or may come to have, from the smallest."""
        given = sorted({own.model.cut for own in self._kinds})
        cuts = self.federation.cuts
        if cuts.every is None or cuts.most is None:
            return given
        return [*range(min(given[0], cuts.least), max(given[-1], cuts.most) + 1)]

    @property
    def ranks(self) -> list[int]:
        """LoRA's ranks at the clients, from the lowest, that of the last block (`lora.cut_rank`) included."""
        own = {min(own.lora.cut_rank or own.lora.rank, own.lora.rank) for own in self._kinds}
        return sorted({self.lora.rank, *own, *(own.lora.rank for own in self._kinds)})

    @property
    def _kinds(self) -> list[Self]:
        """The configurations of all clients; of one that nobody has named, too, if there may be others."""
        if not self.clients.given:
            return [self]
        others = [] if self.federation.names else [self.for_all]
        return [*others, *map(self.of_client, self.known_clients)]

    def link_of(self, name: str) -> LinkConfig:
        """A client's link."""
        return self.clients.of(name).link or self.links

    @property
    def most_in_batch(self) -> int:
        """The most samples that a client has in a step."""
        return max(own.training.batch_size for own in self._kinds)

    def told(self, name: str) -> str:
        """The settings that a client of a run is told, as TOML: none of other clients, or of where the body runs."""
        return self.of_client(name).override({"federation.names": None, "engine": {}}).to_toml()

    @classmethod
    def load(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read a TOML file; raises ConfigError naming file, key, value and remedy.

        Paths in a file are relative to it, those in `overrides` to the working directory. If the file has
        `extends = "base.toml"`, it changes what that one says; if it has
        `preset = "balanced"`, flows whose codec it does not give have that preset's (see `settings.presets`).
        """
        return cls._from_tree(
            merged(read_tree(Path(path), cls._settled), overrides or {}), str(path), overrides or {}
        )

    @classmethod
    def _settled(cls, tree: Tree, file: Path) -> Tree:
        """A file's tree with absolute paths, also in its variants."""
        tree = with_places(cls, tree, file)
        comparison = tree.get("comparison")
        variants = comparison.get("variants") if isinstance(comparison, dict) else None
        for variant in variants if isinstance(variants, list) else []:
            if isinstance(variant, dict) and isinstance(variant.get("set"), dict):
                variant["set"] = with_places(cls, variant["set"], file)
        return tree

    @classmethod
    def from_toml(
        cls, text: str, where: str = "configuration", overrides: Mapping[str, Any] | None = None
    ) -> Self:
        """Read TOML text; `overrides` maps dotted keys to values and wins over the text."""
        return cls._from_tree(merged(read_text(text, where), overrides or {}), where, overrides or {})

    @classmethod
    def _from_tree(cls, tree: Mapping[str, Any], where: str, changed: Collection[str] = ()) -> Self:
        config = cls.__new__(cls)
        try:
            cls.__pydantic_validator__.validate_python(dict(tree), self_instance=config)
        except ValidationError as error:
            raise ConfigError(explain(error, cls, where, changed)) from error
        return config

    def to_toml(self) -> str:
        """The whole tree, defaults included; `false` stands for None, as TOML has no such value."""
        return tomli_w.dumps(without_none(self.model_dump()))

    def override(self, changes: Mapping[str, Any], where: str = "override") -> Self:
        """A copy with dotted keys changed; raises ConfigError like `load`, naming `where` they were given."""
        return self._from_tree(merged(self.model_dump(), changes, where), where)
