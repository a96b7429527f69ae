"""A learned inverter: from one hidden state to the tokens that it may be of; a linear map to embeddings."""

from typing import Self

import torch
from torch import Tensor

_PENALTY = 1e-3  # of the mean square of a standardised direction


class Inverter:
    """Ridge regression from standardised hidden states to centred embeddings, then the nearest of these by cosine.

    Linear maps of this kind recover most tokens from early blocks (Morris et al. 2023, 2310.06816, learn larger ones).
    """

    def __init__(self, embeddings: Tensor) -> None:
        """`embeddings` [V, E]: the model's own input embeddings, which the server has."""
        centred = embeddings.detach().float() - embeddings.detach().float().mean(0)
        self._targets = centred
        self._directions = torch.nn.functional.normalize(centred, dim=1)

    def fit(self, hidden: Tensor, tokens: Tensor) -> Self:
        """Learn from hidden states [N, D] of known tokens [N]."""
        hidden = hidden.float()
        self._mean, self._scale = hidden.mean(0), hidden.std(0).clamp_min(1e-6)
        inputs = (hidden - self._mean) / self._scale
        gram = inputs.T @ inputs
        gram += _PENALTY * len(inputs) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        self._map = torch.linalg.solve(gram, inputs.T @ self._targets[tokens])
        return self

    def rank(self, hidden: Tensor, count: int) -> Tensor:
        """The `count` likeliest tokens [N, count] behind hidden states [N, D], the likeliest first."""
        guesses = ((hidden.float() - self._mean) / self._scale) @ self._map
        similar = torch.nn.functional.normalize(guesses, dim=1) @ self._directions.T
        return similar.topk(min(count, len(self._directions)), dim=1).indices
