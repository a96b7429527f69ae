"""How an audit has samples cross the cut, and what it finds; knows no attack."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from splitcom.audit import Score
from splitcom.codecs import Context, MemoryReferences, Ragged, parse
from splitcom.codecs.chain.dither import Dither
from splitcom.config import Config
from splitcom.models import Front
from splitcom.privacy import Gaussian
from splitcom.privacy import parse as parse_mechanism
from splitcom.seeds import derive_seed
from splitcom.training.loss import learnt_tokens


@dataclass(frozen=True)
class Finding:
    """What one attack tells from what one codec lets through. `error` is the codec's, of the values' norm.

    `bits` are what a number takes on a first visit. If it is not text that is told, `share` is how often it is right,
    and `chance` how often by guessing.
    """

    codec: str
    error: float
    attack: str
    score: Score | None = None
    bits: float | None = None
    share: float | None = None
    chance: float | None = None


@dataclass(frozen=True)
class AuditOptions:
    """How much is tried: of so many samples the first `tokens`, among so many candidates for each, or 16 times as many.

    These are tried if none of the first leads near enough to what arrived.
    """

    samples: int = 8
    tokens: int = 48
    candidates: int = 32
    public: str | None = None  # a source of text for the inverter to learn from; None: generated text
    beam: int = 1  # texts that the dictionary follows at a time
    visits: int | None = None  # of which noise is averaged; None: all that a sample has in the run
    packets: int = 24  # samples whose packets' sizes are looked at
    updates: bool = False  # a round is trained anew, and what clients make of the adapter is attacked


class Way:
    """What is done to a flow before it arrives: noise, if the run has some, and a codec; `name` says so."""

    def __init__(
        self, codec: str, mechanism: Gaussian | None = None, clip: float = 0.0, visits: int = 1
    ) -> None:
        self.codec = codec
        self._mechanism, self._clip, self._visits = mechanism, clip, visits
        self.name = codec if mechanism is None else f"{mechanism} > {codec}"
        if visits > 1:
            self.name += f", mean of {visits} visits"

    def arrived(self, batch: Ragged) -> tuple[Ragged, float]:
        """What arrives of samples that are sent for the first time; under noise, the mean of so many visits.

        And how many bits a number takes at each of them.
        """
        total, size_bytes = torch.zeros(batch.values.shape), 0
        for visit in range(self._visits):
            packet, decoded = _through(self.codec, self.left(batch, visit), visit)
            total += decoded.values
            size_bytes += len(packet)
        mean = replace(batch, values=total / self._visits)
        return mean, 8 * size_bytes / self._visits / total.numel()

    def left(self, batch: Ragged, visit: int) -> Ragged:
        """What leaves the client, under noise if there is some; what is random is of the visit."""
        if self._mechanism is None:
            return batch
        seed = derive_seed(self._mechanism.seed, "audit", visit)
        return replace(batch, values=self._mechanism.released(batch.values, self._clip, seed))


def ways(config: Config, flow: str, options: AuditOptions, scale: float = 1.0) -> list[Way]:
    """fp16 without noise, and what the run does; `scale` is that of what gradients are of."""
    codec = config.flows.codec(flow)
    all_visits = config.training.rounds * config.training.local_epochs
    if config.client.privacy is None:
        is_dithered = any(isinstance(element, Dither) for element in parse(codec).elements)
        counts = sorted({1, (options.visits or all_visits) if is_dithered else 1})
        return [Way("fp16"), *(Way(codec, visits=count) for count in counts if codec != "fp16")]
    mechanism = parse_mechanism(config.client.privacy)
    clip = scale * mechanism.gradients if flow == "gradient_up" else mechanism.clip
    visits = options.visits or (all_visits if config.lora.front_learns else 1)
    return [Way("fp16"), *(Way(codec, mechanism, clip, count) for count in sorted({1, visits}))]


def _through(text: str, batch: Ragged, visit: int) -> tuple[bytes, Ragged]:
    """The packet of samples that are sent for the first time, and what arrives; what is random is of the visit."""
    sender, receiver = parse(text), parse(text)
    stores = [MemoryReferences() if codec.needs_references else None for codec in (sender, receiver)]
    packet = sender.encode(
        batch,
        list(range(len(batch.lengths))),
        Context(references=stores[0], seed=derive_seed("audit", visit)),
    ).packet
    return packet, receiver.decode(packet, stores[1]).batch


@torch.no_grad()
def hidden_of(front: Front, tokens: Tensor) -> Tensor:
    """A text's hidden states [T, D], fp32."""
    hidden: Tensor = front(tokens[None], torch.ones_like(tokens)[None])
    return hidden[0].float()


def learnt_of(labels: Tensor) -> Tensor:
    """Which of a text's tokens something is learnt from: bool [T]."""
    learnt = learnt_tokens(labels[None])
    return torch.ones_like(labels, dtype=torch.bool) if learnt is None else learnt[0]
