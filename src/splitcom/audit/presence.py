"""Which tokens a text has, from what it has changed of matrices that read embeddings; knows no model.

    change of A  =  sum over tokens of  (what comes back at the token)  x  (what A reads of it)

So after one step of plain gradient descent each row is a sum of the inputs of tokens that occur, and the input of a
token lies in the span of the rows if no more tokens occur than there are rows (as DAGER, 2405.15586, for whole
gradients). Of more tokens, and of Adam's steps, it lies nearer than others'.
"""

import torch
from torch import Tensor

_LEAST = 1e-5  # of the largest singular value: what is smaller is rounding


def occurring(change: Tensor, inputs: Tensor) -> Tensor:
    """How far the input of each token [V, D] lies in the span of the rows of a change [R, D]: 0 to 1, [V].

    Without the direction of the inputs' mean, which they have in common. 0 for all if nothing has changed.
    """
    change, inputs = change.float(), inputs.float()
    mean = torch.nn.functional.normalize(inputs.mean(0), dim=0)
    change, inputs = (rows - (rows @ mean)[:, None] * mean for rows in (change, inputs))
    change = change / change.norm(dim=1, keepdim=True).clamp_min(1e-30)
    _, values, directions = torch.linalg.svd(change, full_matrices=False)
    span = directions[values > _LEAST * values[0].clamp_min(1e-30)]
    parts: Tensor = (torch.nn.functional.normalize(inputs, dim=1) @ span.T).square().sum(1)
    return parts


def share_named(scores: Tensor, occurs: Tensor) -> float:
    """Of the tokens of the highest scores, as many as occur, the share that does; of equal ones what is to be expected.

    As many are named as there are, so it is both precision and recall.

    >>> share_named(torch.tensor([3.0, 1.0, 1.0, 0.0]), torch.tensor([True, True, False, False]))
    0.75
    """
    count = int(occurs.sum())
    least = scores.topk(count).values[-1]
    above, level = scores > least, scores == least
    rest = (count - above.sum()) * occurs[level].double().mean()
    return float((occurs[above].sum() + rest) / count)
