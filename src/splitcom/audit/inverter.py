"""A learned inverter: from one hidden state to the tokens that it may be of; a linear map to embeddings."""

from typing import Self

import torch
from torch import Tensor

_PENALTY = 1e-3  # of the mean square of a standardised direction, and of embeddings'
_UNSEEN = 0.01  # how often a token that is not in the public text has occurred there


class Inverter:
    """Ridge regression from standardised hidden states to embeddings, then the likeliest token.

        p(token | hidden)  ~  p(token) * N(e; g, S) / N(e; mean, C)      e: its embedding, g: the regression's guess,
                                                                         S: covariance of errors, C: of embeddings

    This is Bayes' rule if embeddings and errors were normal: of a hidden state that tells nothing it says the commonest
    token, of one that tells all the nearest. Linear maps of this kind recover most tokens from early blocks (Morris et
    al. 2023, 2310.06816, learn larger ones). `log_prior` [V] is log p(token).
    """

    def __init__(self, embeddings: Tensor) -> None:
        """`embeddings` [V, E]: the model's own input embeddings, which the server has."""
        self._embeddings = embeddings.detach().float()

    def fit(self, hidden: Tensor, tokens: Tensor) -> Self:
        """Learn from hidden states [N, D] of known tokens [N], as they arrive."""
        hidden = hidden.float()
        self._mean, self._scale = hidden.mean(0), hidden.std(0).clamp_min(1e-6)
        counts = torch.bincount(tokens, minlength=len(self._embeddings)) + _UNSEEN
        self.log_prior = (counts / counts.sum()).log()
        self._centred = self._embeddings - self._embeddings[tokens].mean(0)
        inputs, targets = (hidden - self._mean) / self._scale, self._centred[tokens]
        self._map = torch.linalg.solve(_with_penalty(inputs.T @ inputs, len(inputs)), inputs.T @ targets)
        errors, least = targets - inputs @ self._map, float(targets.square().mean())
        of_errors, of_targets = (
            torch.linalg.inv(_with_penalty(found.T @ found / len(found), least))
            for found in (errors.double(), targets.double())
        )
        # in fp64: of tokens unlike those of the text it is a small difference of large numbers
        gained = (self._centred.double() @ (of_errors - of_targets) * self._centred).sum(1)
        self._weights = of_errors.float() @ self._centred.T
        self._alone = self.log_prior - gained.float() / 2
        return self

    def rank(self, hidden: Tensor, count: int) -> Tensor:
        """The `count` likeliest tokens [N, count] behind hidden states [N, D], the likeliest first."""
        guesses = ((hidden.float() - self._mean) / self._scale) @ self._map
        likely: Tensor = guesses @ self._weights + self._alone
        return likely.topk(min(count, len(self._embeddings)), dim=1).indices


def _with_penalty(gram: Tensor, unit: float) -> Tensor:
    return gram + _PENALTY * unit * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
