"""The settings of a federation: who takes part in a round, and who waits for whom."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from splitcom.aggregation import DpFedAvg
from splitcom.aggregation import parse as parse_aggregator
from splitcom.aggregation.config import AggregatorText
from splitcom.amount import counted
from splitcom.settings import NonNegativeFloat, NonNegativeInt, Part, PositiveFloat, PositiveInt, Section

_FEWEST_UNDER_MASKS = 3
MoreThanHalf = Annotated[float, Field(gt=0.5, le=1, strict=True)]
_OF_0_1 = "adapter_dtype"  # that precision alone could be set of adapters


class AsynchronousConfig(Section):
    """Asynchronous training: how an update is merged. s is the number of versions of the shared adapter
    since the one that the update began from.
    """

    buffer: PositiveInt = 1
    """How many updates are merged together (K in FedBuff); 1 merges each as it comes (FedAsync)."""
    mixing: Part = 0.6
    """The part of the merged adapter that a fresh update makes up (alpha in FedAsync)."""
    staleness: NonNegativeFloat = 0.5
    """How fast older updates lose weight: the part of one is `mixing * (1 + s) ** -staleness`."""


class VarianceConfig(Section):
    """When a round ends in FDA-Opt: as soon as clients are too far apart, which is estimated from a few
    numbers of each.
    """

    estimate: Literal["linear", "ams", "naive"] | None = None
    """How it is estimated how far clients are apart: linear (8 bytes of each client), ams (a sketch) or
    naive (4 bytes, the norm alone). false: a round has training.local_epochs, however far apart they are.
    """
    max_chunks: PositiveInt | None = None
    """How often training.local_epochs may be trained in a round at most; None: 2 * local_epochs + 8."""
    depth: PositiveInt = 3
    """Rows of the sketch of ams, whose median counts."""
    width: Annotated[int, Field(ge=1, le=65_536, strict=True)] = 500
    """Numbers in a row of the sketch: the estimate is off by about sqrt(2 / width)."""


class CutsConfig(Section):
    """Whether clients' cuts follow how well they do (SplitFT): who does better than the mean holds more blocks."""

    every: PositiveInt | None = None
    """Rounds after which a cut may move by one block, if there has been an evaluation; None: cuts stay."""
    strength: PositiveFloat = 1.0
    """How far: towards cut * (1 + strength * (q - mean of q) / mean of q) from the client's first cut, q being
    exp(-held-out loss) of the client.
    """
    least: PositiveInt = 1
    """The smallest cut that a client may come to."""
    most: PositiveInt | None = None
    """The largest; clients.NAME.most_cut is that of one client. It must be given if cuts move."""

    @model_validator(mode="after")
    def _between(self) -> Self:
        if self.every is not None and self.most is None:
            raise ValueError(
                f"federation.cuts.every = {self.every}: say how many blocks a client can hold at most: set "
                "federation.cuts.most"
            )
        if self.most is not None and self.most < self.least:
            raise ValueError(
                f"federation.cuts.most = {self.most} is below federation.cuts.least = {self.least}"
            )
        return self


class FederationConfig(Section):
    """The clients of a round, who waits for whom, and how their adapters travel."""

    clients: Annotated[PositiveInt, Field(le=1_000_000)] = 3
    """How many clients take part in the run, a million at most."""
    names: list[str] | None = None
    """Over a network: the names in the certificates of those who may take part; false: anybody with a
    certificate of the authority. Clients are not told the names.
    """
    sample: Part = 1.0
    """The part of the clients that is sampled for each round."""
    aggregator: AggregatorText = "fedavg"
    """How a round's adapters become one: fedavg, fedavgm(momentum=0.9), fedadam(lr=0.01),
    fedyogi(lr=0.01), fedadagrad(lr=0.01), fedex, dp_fedavg(bound, noise), norm_clip(bound), trimmed_mean(0.2),
    median, krum(0.2), multi_krum(0.2); `splitcom aggregators` explains them.
    """
    segments: PositiveInt = 1
    """Into how many segments adapters are divided for the way to the server: a client sends one of them in
    a round, and another in the next (EcoLoRA). 1: the whole adapter.
    """
    density_rate: NonNegativeFloat = 0.0
    """How fast the density of adapters' codecs falls with the training loss: by exp(-density_rate * (first
    loss - last loss)), down to the codec's `least`. 0: not at all.
    """
    secure_aggregation: MoreThanHalf | None = None
    """Whether clients send adapters under masks, so that the server sees only their sum. The number is the
    part of a round's clients that must stay to take the masks off, such as 0.6; false: no masks.
    """
    drop_after_s: PositiveFloat | None = None
    """Seconds after which a lost client is dropped from the run; None waits for ever."""
    step_timeout_s: PositiveFloat | None = None
    """Seconds that a connected client may be silent for between two messages; None waits for ever."""
    max_restarts: NonNegativeInt | None = 10
    """How often a client may start again between two saved rounds; None: any number."""
    min_clients: PositiveInt = 1
    """How many clients a run needs to begin, and a round to end."""
    max_update_ratio: PositiveFloat | None = 5.0
    """The largest norm of an update, in multiples of the median of its round. A larger one is clipped, if
    there are three updates or more. false: no limit.
    """
    max_weight_ratio: PositiveFloat | None = 10.0
    """Without a split, the most labels that a client may claim, in multiples of the median of the others'
    claims; the same bounds the held-out losses that clients claim. false: no limit.
    """
    max_gradient_ratio: PositiveFloat | None = None
    """The largest norm of one client's part in the body's gradients, in multiples of the median of its
    step (per label). A larger one is clipped, if three clients step together. false: no limit, which is
    faster.
    """
    max_samples_per_client: PositiveInt = 1_000_000
    """How many samples a client may claim to have; one with more is refused."""
    scheduling: Literal["synchronous", "asynchronous"] = "synchronous"
    """Whether a round waits for its clients, or merges updates as they come."""
    deadline_s: PositiveFloat | None = None
    """Seconds after which a round ends without those who are late; None waits for all."""
    over_select: NonNegativeFloat = 0.0
    """How many more clients are sampled, as a part of them; the round ends when as many as `sample` asks
    for have finished.
    """
    asynchronous: AsynchronousConfig = AsynchronousConfig()
    variance: VarianceConfig = VarianceConfig()
    cuts: CutsConfig = CutsConfig()

    @model_validator(mode="before")
    @classmethod
    def _adapters_have_codecs(cls, settings: Any) -> Any:
        if isinstance(settings, dict) and _OF_0_1 in settings:
            if settings[_OF_0_1] == "float16":  # in every run folder of 0.1; it is the default
                return {name: value for name, value in settings.items() if name != _OF_0_1}
            raise ValueError(
                f"{_OF_0_1} is no setting any more: set flows.adapter_up.codec and flows.adapter_down.codec to "
                "'fp16', which is the default, 'bf16', 'none' for float32, or any other codec"
            )
        return settings

    @model_validator(mode="after")
    def _of_one_scheduling(self) -> Self:
        if self.scheduling == "asynchronous":
            if self.deadline_s is not None or self.over_select:
                raise ValueError(
                    "deadline_s and over_select need scheduling = 'synchronous': asynchronous rounds wait for "
                    "nobody; leave them out"
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
    def _segments_of_a_round(self) -> Self:
        if self.segments > 1 and self.scheduling == "asynchronous":
            raise ValueError(
                f"segments = {self.segments}: segments are shared out over the clients of a round, and "
                "asynchronous training has no rounds of fixed clients; set segments = 1, or scheduling = "
                "'synchronous'"
            )
        if self.segments > 1 and self.aggregator.partition("(")[0] in ("krum", "multi_krum", "fedex"):
            raise ValueError(
                f"aggregator = {self.aggregator!r} compares whole updates, and with segments = "
                f"{self.segments} each client sends a part; take another aggregator, such as median, or "
                "segments = 1"
            )
        return self

    @model_validator(mode="after")
    def _variance_of_whole_updates(self) -> Self:
        if self.variance.estimate is None:
            return self
        if not self.waits_for_all:
            raise ValueError(
                f"federation.variance.estimate = {self.variance.estimate!r}: clients are compared after the "
                "same number of steps, so all must be waited for; leave out deadline_s, over_select and "
                "scheduling = 'asynchronous'"
            )
        if self.segments > 1:
            raise ValueError(
                f"federation.variance.estimate = {self.variance.estimate!r}: the variance is of whole adapters, and "
                f"with segments = {self.segments} clients send parts; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _names_for_all(self) -> Self:
        if self.names is not None and len(set(self.names)) < max(self.clients, len(self.names)):
            raise ValueError(
                f"federation.names has {len(set(self.names))} different names, and federation.clients = "
                f"{self.clients}; name each client once, and at least as many as there are clients, or leave "
                "it out"
            )
        return self

    @model_validator(mode="after")
    def _enough_to_begin(self) -> Self:
        most, what = self.clients, "clients"
        if self.scheduling == "synchronous" and self.num_sampled < self.clients:
            most, what = self.num_sampled, "clients sampled in each round"
        if self.min_clients > most:
            raise ValueError(
                f"min_clients = {self.min_clients}: there are {most} {what}, so that no round could end; lower it, or "
                "raise clients or sample"
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
                f"aggregator = {self.aggregator!r} needs {least} updates or more to be better than a mean, "
                f"and {count} are averaged; raise {field}, or take another aggregator"
            )
        return self

    @model_validator(mode="after")
    def _noise_of_whole_rounds(self) -> Self:
        aggregator = parse_aggregator(self.aggregator)
        if (
            self.variance.estimate is not None
            and isinstance(aggregator, DpFedAvg)
            and aggregator.where == "clients"
        ):
            raise ValueError(
                f"aggregator = {self.aggregator!r}: each client adds noise once a round, and with "
                "federation.variance.estimate it tells of its update before; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _sums_alone(self) -> Self:
        """Under masks nothing can be done with a single update."""
        if self.secure_aggregation is None:
            return self
        setting = f"federation.secure_aggregation = {self.secure_aggregation:g}"
        if not self.waits_for_all:
            raise ValueError(
                f"{setting}: masks cancel only in the sum of all clients of a round, so all must be waited "
                "for; leave out deadline_s, over_select and scheduling = 'asynchronous'"
            )
        if self.num_sampled < _FEWEST_UNDER_MASKS:
            raise ValueError(
                f"{setting}: a round has {counted(self.num_sampled, 'client')}, and in a sum of so few a client could "
                f"work out another's update; at least {_FEWEST_UNDER_MASKS} are needed: raise clients or "
                "sample"
            )
        if self.segments > 1 or self.variance.estimate is not None:
            raise ValueError(
                f"{setting}: all clients send all of their adapter and nothing else of it; leave out segments and "
                "federation.variance.estimate"
            )
        if not parse_aggregator(self.aggregator).takes_sums:
            raise ValueError(
                f"{setting}: aggregator = {self.aggregator!r} looks at single updates, and the server sees "
                "only their sum; take fedavg, fedavgm, fedadam or fedyogi, or clip at clients with "
                "client.clip_update"
            )
        if self.max_update_ratio is not None:
            raise ValueError(
                f"{setting}: max_update_ratio = {self.max_update_ratio:g} compares single updates, and the "
                "server sees only their sum; set max_update_ratio = false if you trust all clients not to "
                "send too much"
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
