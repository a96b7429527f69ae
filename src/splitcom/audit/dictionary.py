"""The dictionary attack: run the known front on every candidate behind the recovered prefix, and take the nearest.

    recovered prefix ─► front's cache ─┬─► candidate 1 ─► hidden state ─┐
                                       ├─► candidate 2 ─► …             ├─► nearest to the one that arrived
                                       └─► candidate K ─► …             ┘

Of a causal model it is exact in principle: different texts have different hidden states (SipIt, 2510.15511).
"""

import torch
from torch import Tensor

from splitcom.models import Front
from splitcom.models.generate import Continuation


def recovered(front: Front, hidden: Tensor, candidates: Tensor) -> Tensor:
    """The tokens [T] behind one sample's hidden states [T, D], each one of its candidates [T, K].

    A wrong token stays in the prefix of those that follow, as it would in earnest.
    """
    text = Continuation(front)
    tokens = []
    for target, options in zip(hidden, candidates, strict=True):
        distances = (text.hidden_after(options).float() - target.float()).square().sum(1)
        tokens.append(int(options[distances.argmin()]))
        text.append(tokens[-1])
    return torch.tensor(tokens)
