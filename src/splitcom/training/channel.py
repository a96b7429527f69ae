"""One flow between a client and the server, as one of the two sides sees it: a codec and this side's references.

sender                                            receiver
values ─► codec.encode ─► packet ───────────────► codec.decode ─► values
             │    ▲                                  │    ▲
             ▼    │                                  ▼    │
          references         identical            references

What blocks put out is what has come in and what they add to it: the residual stream. So of a flow that leaves the body
in the U-shape, activations or gradients, both ends have a part already: what has come in from this client in the same
step. Where `base` is the channel of that flow, the rest alone is coded, and the sum is formed elementwise in fp32 at
both ends.

A gradient answers activations that have passed before, in the other direction. Of a codec that `wants_along` both ends
keep the few columns of these that its packets are to be right along.

Samples that the receiver has not seen are guessed by both ends from their labels, if the receiver has these and the
codec `wants_guess`.

Held-out samples cross the cut before those that are learnt from. What the codec has told the receiver of how they vary,
not of any sample, holds for both, so that `follows` tells it once.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import sqrt
from time import perf_counter
from typing import Literal

import torch

from splitcom.codecs import (
    Along,
    Codec,
    Context,
    Decoded,
    Guess,
    OverlayReferences,
    Ragged,
    ReferenceStore,
    parse,
    uncompressed_size,
)
from splitcom.control import Decision
from splitcom.errors import NonFiniteError, OutOfRangeError, PacketError
from splitcom.protocol.labels import Labels
from splitcom.seeds import derive_seed
from splitcom.training.optimize import DIVERGED

_LOG = logging.getLogger(__name__)
_MOST_REFUSED = 4
_MANY_TOKENS = 400  # of a client; with so many, on GSM8K and E2E, a loss is off by 0.1 to 0.5 %


@dataclass
class Traffic:
    """What has gone through a channel since it was last asked."""

    samples: int = 0
    skipped: int = 0
    packet_bytes: int = 0  # also of packets that had to be sent again
    uncompressed_bytes: int = 0
    seconds: float = 0.0


class Channel:
    """Encodes at the sender, decodes at the receiver; counts what passes."""

    def __init__(
        self,
        flow: str,
        client: str,
        codec: Codec,
        references: ReferenceStore | None,
        seed: int,
        base: "Channel | None" = None,
        answers: "Channel | None" = None,
    ) -> None:
        self.flow = flow
        self.client = client
        self.codec = codec
        self.references = references
        self.follows: Channel | None = None
        """Whose codec's state this flow begins with, if it is there when the first packet is coded."""
        self.device: torch.device | str = "cpu"
        """Where what is decoded is wanted."""
        self.decision = Decision()
        """Of the flow's controller, or `finer_if_few`; of none, the codec's text holds."""
        self.guess: Callable[[Mapping[int, Labels]], Guess] | None = None
        """Makes one of the labels of new samples, by sample id; at both ends, or at none."""
        self._guessed = False  # whether the last packet builds on a guess
        self.num_refused = 0
        """Such packets that the receiver could not read, of the whole run; part of the sender's checkpoint."""
        self.traffic = Traffic()
        self._seed = seed
        self._base = base
        self._is_base = False  # of another channel: then both ends keep what they have of the last packet
        self._last: tuple[list[int], Ragged] | None = None
        self._answers = answers if codec.wants_along else None
        self._num_along = 0  # that another channel wants of what has passed here
        self._passed: Along | None = None
        if base is not None:
            base._is_base = True
        if self._answers is not None:
            self._answers._num_along = codec.wants_along

    def encode(
        self,
        batch: Ragged,
        ids: Sequence[int],
        position: tuple[int, int],
        *,
        self_contained: bool = False,
        labels: Mapping[int, Labels] | None = None,
    ) -> bytes:
        """Turn a batch into a packet; `position` is round and step, and `labels` are those that the receiver has.

        Raises NonFiniteError and OutOfRangeError, naming both.
        """
        started = perf_counter()
        self._begin()
        if self_contained and self._guessed:
            self._doubt_guesses()
        base = self._held(ids, batch)
        coded = batch if base is None else replace(batch, values=batch.values.float() - base)
        try:
            encoded = self.codec.encode(coded, ids, self._context(position, self_contained, labels))
        except NonFiniteError as error:
            raise NonFiniteError(
                f"{self.client}, round {position[0]}, step {position[1]}, flow {self.flow}: {error}; {DIVERGED}"
            ) from error
        except OutOfRangeError as error:
            raise OutOfRangeError(
                f"{self.client}, round {position[0]}, step {position[1]}, flow {self.flow}: {error}; if numbers have "
                f"grown from step to step, {DIVERGED}"
            ) from error
        self._guessed = encoded.guessed
        if self._is_base or self._num_along:
            passed = encoded.reconstruction
            self._keep([*ids], passed if base is None else replace(passed, values=passed.values + base))
        self.traffic.seconds += perf_counter() - started
        self.traffic.packet_bytes += len(encoded.packet)
        self._count(batch, ids, encoded.skipped)
        return encoded.packet

    def decode(self, packet: bytes, limit_bytes: int, labels: Mapping[int, Labels] | None = None) -> Decoded:
        """Turn a packet back, of at most `limit_bytes` as fp32; raises UnknownReference and PacketError."""
        started = perf_counter()
        self._begin()
        self.traffic.packet_bytes += len(packet)
        decoded = self.codec.decode(
            packet,
            self.references,
            limit_bytes=limit_bytes,
            device=self.device,
            along=self._along,
            guess=self._guess_of(labels),
        )
        base = self._held(decoded.ids, decoded.batch)
        if base is not None:
            decoded = replace(decoded, batch=replace(decoded.batch, values=decoded.batch.values + base))
        if self._is_base or self._num_along:
            self._keep(decoded.ids, decoded.batch)
        self.traffic.seconds += perf_counter() - started
        self._count(decoded.batch, decoded.ids, decoded.skipped)
        return decoded

    @property
    def setting(self) -> float | None:
        """The threshold or step that the sender goes by; None if the codec has neither."""
        if self.decision.value is not None or self.codec.knob is None:
            return self.decision.value
        return self.codec.knob.value

    def _begin(self) -> None:
        # packets name what they build on: ends that begin with different states notice, and begin anew without
        other = None if self.follows is None else self.follows.references
        if self.follows is None or other is None or self.references is None:
            return
        if self.references.flow is None and other.flow is not None:
            self.references.flow = self.codec.begun(self.follows.codec, other.flow)

    def _doubt_guesses(self) -> None:
        """Count a packet that is sent twice; guesses may be why, so after a few there are no more of them."""
        self.num_refused += 1
        if self.num_refused == _MOST_REFUSED:
            _LOG.warning(
                f"{self.client}, flow {self.flow}: {self.num_refused} packets had to be sent again; labels no longer "
                "predict activations, in case the two ends' fp32 differs too much (let neither compute in TF32)"
            )

    def _guess_of(self, labels: Mapping[int, Labels] | None) -> Guess | None:
        if self.guess is None or labels is None or self.num_refused >= _MOST_REFUSED:
            return None
        return self.guess(labels)

    def _context(
        self, position: tuple[int, int], self_contained: bool, labels: Mapping[int, Labels] | None
    ) -> Context:
        return Context(
            self.references,
            threshold=self.decision.threshold,
            step=self.decision.step,
            self_contained=self_contained,
            seed=derive_seed(self._seed, self.client, self.flow, *position),
            flow_seed=derive_seed(self._seed, self.client, self.flow, "projection"),
            along=self._along,
            guess=self._guess_of(labels),
        )

    @property
    def _along(self) -> Along | None:
        return None if self._answers is None else self._answers._passed

    def _keep(self, ids: list[int], batch: Ragged) -> None:
        """Keep what other channels of the step need of what has passed."""
        if self._is_base:
            self._last = ids, batch
        self._passed = Along.kept(batch, ids, self._num_along)

    def forget_batch(self) -> None:
        """No other flow of the step follows: let go of what has passed."""
        self._last = self._passed = None

    def take_traffic(self) -> Traffic:
        """What has passed since the last call."""
        traffic, self.traffic = self.traffic, Traffic()
        return traffic

    def _held(self, ids: Sequence[int], batch: Ragged) -> torch.Tensor | None:
        """What both ends have of these tokens already, fp32 `[tokens, hidden]`; None without a base."""
        if self._base is None:
            return None
        known, held = self._base._last or ([], batch)
        if [*ids] != known or not torch.equal(held.lengths, batch.lengths) or held.hidden != batch.hidden:
            raise PacketError(
                f"flow {self.flow} of other samples or tokens than {self._base.flow} had before"
            )
        return held.values.to(batch.values.device)

    def _count(self, batch: Ragged, ids: Sequence[int], skipped: torch.Tensor) -> None:
        self.traffic.samples += len(skipped)
        self.traffic.skipped += int(skipped.sum())
        self.traffic.uncompressed_bytes += uncompressed_size(ids, batch.lengths.tolist(), batch.hidden)


class RestChannel(Channel):
    """What a flow of held-out samples still lacks: goes on from another channel in the codec's exact step.

    What the other one builds on stays as it is. If the codec has no such step, numbers are sent as they are.
    """

    def __init__(self, of: Channel, base: Channel | None = None) -> None:
        self._of, self._step = of, of.codec.exact_step
        codec, base = (parse("none"), None) if self._step is None else (of.codec, base)
        super().__init__(f"{of.flow}_exact", of.client, codec, None, of._seed, base)
        self.device = of.device

    @contextmanager
    def passing(self) -> Iterator[None]:
        """What is sent meanwhile builds on what the other channel has, and then on itself."""
        below = self._of.references
        if self._step is not None and below is not None:
            self.references = OverlayReferences(below)
            self.decision = Decision(step=self._step)
        try:
            yield
        finally:
            self.references, self.decision = None, Decision()


Channels = Mapping[str, Channel]


def forget_batches(channels: Channels) -> None:
    """One client's steps are over: a server may have thousands of clients at rest, each with a batch for each flow."""
    for channel in channels.values():
        channel.forget_batch()


@contextmanager
def passing_held_out(channels: Channels, *, exact: bool) -> Iterator[None]:
    """A pass of held-out samples through one client's channels."""
    with ExitStack() as stack:
        stack.callback(forget_batches, channels)
        for channel in channels.values():
            if exact and isinstance(channel, RestChannel):
                stack.enter_context(channel.passing())
        yield


def held_out(channels: Channels, direction: Literal["up", "down"], *, exact: bool) -> Channel:
    """The channel of held-out samples in one direction; an exact evaluation has one of its own."""
    return channels[f"evaluation_{direction}{'_exact' if exact else ''}"]


def finer_if_few(codec: Codec, num_tokens: int, *, exact: bool = False) -> Decision:
    """The step of an evaluation of so many tokens: errors of a mean loss cancel out over many, and few cost little.

    >>> codec = parse("predict > klt > uniform(0.25) > range")
    >>> finer_if_few(codec, 100).step
    0.125
    >>> [finer_if_few(codec, num_tokens, exact=True).step for num_tokens in (400, 100)]
    [0.0625, 0.03125]
    """
    if codec.exact_step is None or codec.knob is None:
        return Decision()
    part, finest = sqrt(num_tokens / _MANY_TOKENS), codec.knob.limits[0]
    if exact:
        return Decision(step=max(finest, codec.exact_step * min(part, 1)))
    return Decision() if part >= 1 else Decision(step=max(codec.exact_step, codec.knob.value * part))
