"""The dictionary attack: run the known front on every candidate behind the recovered prefix, and take the nearest.

    recovered prefix ─► front's cache ─┬─► candidate 1 ─► hidden state ─┐
                                       ├─► candidate 2 ─► …             ├─► nearest to the one that arrived
                                       └─► candidate K ─► …             ┘

Of a causal model it is exact in principle: different texts have different hidden states (SipIt, 2510.15511).
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from splitcom.models import Front
from splitcom.models.generate import Continuation

TOP = 5
_AT_A_TIME = 128


@dataclass
class _Text:
    """One of the texts that a search follows: what it says so far, and how far it lies from what arrived."""

    continuation: Continuation
    distance: float = 0.0
    ranked: list[Tensor] = field(default_factory=list)


def recovered(
    front: Front,
    hidden: Tensor,
    candidates: Tensor,
    beam: int = 1,
    penalties: Tensor | None = None,
    first: int | None = None,
    enough: float = 0.0,
) -> Tensor:
    """The tokens [T, TOP] behind one sample's hidden states [T, D], each of its candidates [T, K], the nearest first.

    A wrong token stays in the prefix of those that follow, as it would in earnest; with a `beam` the search follows so
    many texts, of which the one that lies nearest as a whole wins. Its tokens come first. Fewer candidates than TOP are
    filled up with -1. `penalties` [T, K] are added to squared distances: under noise of variance v, -2 v log p(token)
    makes the nearest the likeliest. At each place the `first` candidates are tried, and all others only if none of
    these lies within `enough` of what arrived, as a part of its squared norm; None: all are tried at once.
    """
    texts = [_Text(Continuation(front))]
    rows = torch.zeros(candidates.shape) if penalties is None else penalties
    for target, options, penalty in zip(hidden.float(), candidates, rows, strict=True):
        following = []
        for text in texts:
            distances = _distances(text.continuation, target, options[:first])
            if first is not None and distances.min() > enough * target.square().sum():
                rest = _distances(text.continuation, target, options[first:])
                distances = torch.cat([distances, rest])
            distances = distances + penalty[: len(distances)]
            order = distances.argsort()
            for place in order[:beam].tolist():
                following.append(
                    (text.distance + float(distances[place]), text, options[place], options[order])
                )
        following.sort(key=lambda found: found[0])
        last = {id(text): index for index, (_, text, _, _) in enumerate(following[:beam])}
        texts = []
        for index, (distance, text, token, ranks) in enumerate(following[:beam]):
            goes_on = text.continuation if last[id(text)] == index else text.continuation.copy()
            texts.append(_Text(goes_on, distance, [*text.ranked, _first(int(token), ranks)]))
        for text in texts:
            text.continuation.append(int(text.ranked[-1][0]))
    return torch.stack(texts[0].ranked)


def _distances(text: Continuation, target: Tensor, options: Tensor) -> Tensor:
    """How far from what arrived each of these tokens would lead, squared."""
    parts = [text.hidden_after(some).float() - target for some in torch.split(options, _AT_A_TIME)]
    return torch.cat([part.square().sum(1) for part in parts] or [target.new_empty(0)])


def _first(token: int, ranks: Tensor) -> Tensor:
    """The nearest few, with `token` in front."""
    others = [int(rank) for rank in ranks[: TOP + 1] if int(rank) != token][: TOP - 1]
    return torch.tensor([token, *others] + [-1] * (TOP - 1 - len(others)))
