"""Which clients are unlike the others of a round: by what has come from them, in a few numbers; knows no conversation.

    update_norm, update_cosine     of what a client changes of the adapter, see `aggregation/comparison.py`
    activation_norm                of a token, geometric mean, so that few large ones do not count
    activation_cosine              of the mean token with the mean of the others'
    gradient_norm                  of a token that is learnt from, in the U-shape
    loss                           in training, per label

Ratios are to the median of the others, those of losses to 1 nat if this is more. Whoever is far from them gets a line
in the log: that is a reason to look, and no proof. Nothing is done about it.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from statistics import median
from typing import Any

import torch
from torch import Tensor

from splitcom.aggregation.comparison import Compared

_LOG = logging.getLogger(__name__)
_FEWEST = 3
# Honest clients reach 4.1 (with 20 times the rows), 1.3, -0.10 (other kinds of text) and 0.80: docs/poison.md.
_FAR = 5.0  # of norms, either way
_HIGHER = 2.0  # of losses
_LEAST_NATS = 1.0  # among losses below, none is far from the others
_LEAST_COSINE = {"update_cosine": -0.15, "activation_cosine": 0.5}


@dataclass
class Seen:
    """What has come of one flow in a round, token by token; rows of zeros say nothing."""

    tokens: int = 0
    log_norms: float = 0.0
    total: Tensor | None = None  # fp32 [hidden]

    def add(self, values: Tensor) -> None:
        """Take in values [tokens, hidden]."""
        norms = torch.linalg.vector_norm(values.float(), dim=1)
        norms = norms[norms > 0]
        self.tokens += len(norms)
        self.log_norms += float(norms.log().sum())
        added = values.float().sum(0).cpu()
        self.total = added if self.total is None else self.total + added

    @property
    def norm(self) -> float | None:
        """The geometric mean; None of nothing."""
        return exp(self.log_norms / self.tokens) if self.tokens else None

    @property
    def mean(self) -> Tensor | None:
        """The mean token, fp32 [hidden]; None of nothing."""
        return self.total / self.tokens if self.total is not None and self.tokens else None


@dataclass(frozen=True)
class Brought:
    """What a client has brought in a round; None if nothing of that kind."""

    activation: Seen
    gradient: Seen
    loss: float | None
    cut: int = 0  # where the activations come from: only those of the same cut are compared


def against_others(
    brought: Mapping[str, Brought], updates: Mapping[str, Compared]
) -> dict[str, dict[str, float]]:
    """Each client's numbers beside those of the others, of those kinds that three clients or more have."""
    found: dict[str, dict[str, float]] = {name: {} for name in brought}
    for client, one in updates.items():
        found.setdefault(client, {}).update(update_norm=one.ratio, update_cosine=one.cosine)
    for kind, values, least in (
        ("gradient_norm", {name: one.gradient.norm for name, one in brought.items()}, 0.0),
        ("loss", {name: one.loss for name, one in brought.items()}, _LEAST_NATS),
    ):
        for client, ratio in _ratios(values, least).items():
            found[client][kind] = ratio
    for cut in {one.cut for one in brought.values()}:
        seen = {name: one.activation for name, one in brought.items() if one.cut == cut}
        for client, ratio in _ratios({name: one.norm for name, one in seen.items()}, 0.0).items():
            found[client]["activation_norm"] = ratio
        for client, cosine in _cosines({name: one.mean for name, one in seen.items()}).items():
            found[client]["activation_cosine"] = cosine
    return {client: {kind: round(value, 4) for kind, value in own.items()} for client, own in found.items()}


def outlying(own: Mapping[str, float]) -> list[str]:
    """In which of these numbers a client is far from the others."""
    return [kind for kind, value in own.items() if _is_far(kind, value)]


def say_who_is_unlike(round_index: int, client: str, own: Mapping[str, float], kinds: list[str]) -> None:
    """Log what a client is unlike the others in."""
    what = "; ".join(
        f"{kind} {own[kind]:.3g}" + ("" if kind in _LEAST_COSINE else " times theirs") for kind in kinds
    )
    _LOG.warning("%s, round %d: unlike the others: %s", client, round_index, what)


def told(
    round_index: int, brought: Mapping[str, Brought], updates: Mapping[str, Compared]
) -> dict[str, dict[str, Any]]:
    """What the lines of metrics.jsonl have of this, by client; who is far from the others is logged."""
    lines: dict[str, dict[str, Any]] = {}
    for client, own in against_others(brought, updates).items():
        kinds = outlying(own)
        norm = updates[client].norm if client in updates else None
        lines[client] = {"update_norm": norm, "against_others": own, "unlike": kinds}
        if kinds:
            say_who_is_unlike(round_index, client, own, kinds)
    return lines


def _cosines(values: Mapping[str, Tensor | None]) -> dict[str, float]:
    means = {name: mean for name, mean in values.items() if mean is not None}
    if len(means) < _FEWEST:
        return {}
    total = torch.stack(list(means.values())).sum(0)
    return {name: float(torch.cosine_similarity(own, total - own, dim=0)) for name, own in means.items()}


def _ratios(values: Mapping[str, float | None], least: float) -> dict[str, float]:
    known = {name: value for name, value in values.items() if value is not None}
    if len(known) < _FEWEST:
        return {}
    found = {}
    for name, value in known.items():
        usual = max(median(other for peer, other in known.items() if peer != name), least)
        if usual > 0:
            found[name] = value / usual
    return found


def _is_far(kind: str, value: float) -> bool:
    if kind in _LEAST_COSINE:
        return value < _LEAST_COSINE[kind]
    return value > _HIGHER if kind == "loss" else not 1 / _FAR <= value <= _FAR
