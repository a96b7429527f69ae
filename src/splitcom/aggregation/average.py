"""How the clients' adapters become one."""

from collections.abc import Mapping, Sequence

import torch


def weighted_average(
    states: Sequence[Mapping[str, torch.Tensor]], weights: Sequence[float]
) -> dict[str, torch.Tensor]:
    """FedAvg (McMahan et al. 2017, 1602.05629): tensors averaged by name, weights need not sum to 1.

    Sums in the order given and in fp64, so that the order of arrival cannot change a bit once the caller sorts.

    >>> weighted_average([{"a": torch.tensor([0.0])}, {"a": torch.tensor([4.0])}], [3, 1])
    {'a': tensor([1.])}
    """
    total = sum(weights)
    if not states or total <= 0:
        raise ValueError(f"nothing to average: {len(states)} adapters of total weight {total}")
    return {
        name: (
            sum(
                state[name].double() * (weight / total) for state, weight in zip(states, weights, strict=True)
            )
        ).to(states[0][name].dtype)  # type: ignore[union-attr]
        for name in states[0]
    }
