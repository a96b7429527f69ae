"""Whether a sample was trained on, by how much an adapter lowers its loss: what adapters tell of samples."""

from collections.abc import Sequence


def told_apart(members: Sequence[float], others: Sequence[float]) -> float:
    """Of all pairs of a member and another sample, the share in which the member's number is the higher; ties half.

    The area under the curve of the attack by Yeom et al. 2018 (1709.01604), calibrated by the loss before training
    (Watson et al. 2022, 2111.08440): 0.5 is chance, 1 tells all apart.

    >>> told_apart([0.4, 0.2], [0.1, 0.2])
    0.875
    """
    pairs = [(member, other) for member in members for other in others]
    return sum((member > other) + (member == other) / 2 for member, other in pairs) / len(pairs)
