"""The mean of what adapters add to the weights, B A, in place of the means of B and of A."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from splitcom.aggregation.aggregator import mean, register
from splitcom.aggregation.fedavg import FedAvg
from splitcom.aggregation.update import Update
from splitcom.language import ArgumentError


@register
@dataclass(eq=False)
class FedEx(FedAvg):
    """B and A whose product is as near as their rank allows to the mean of the clients' products.

    Singhal et al. 2024, "FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning" (2410.09432):

        M  =  sum_i w_i B_i A_i  =  B A + R          B, A the means; R is what FedAvg leaves out

    There clients add R to their frozen weights, so it has to be sent, of rank r times the number of clients. Here
    frozen weights stay, and B and A take up what of R they can: from the means, `sweeps` times in turn the best B for
    this A and the best A for this B (least squares). So nothing is sent beyond fedavg, and the product is M if M has
    rank r; else it tends to the best of that rank (Eckart and Young).

    Args:
        sweeps: how often B and A are fitted; 0 is fedavg.
    """

    name = "fedex"
    example = "fedex(sweeps=8)"
    sweeps: int = 8

    def __post_init__(self) -> None:
        if self.sweeps < 0:
            raise ArgumentError("sweeps", f"must be 0 or more; it is {self.sweeps}")

    @property
    @override
    def takes_sums(self) -> bool:
        return False

    @override
    def merge(self, shared: Mapping[str, Tensor], updates: Sequence[Update]) -> dict[str, Tensor]:
        updates = sorted(updates, key=lambda update: (update.client, update.version))
        merged = super().merge(shared, updates)
        for of_a in (name for name in shared if _A in name):
            of_b = of_a.replace(_A, _B)
            holders = [update for update in updates if {of_a, of_b} <= update.adapter.keys()]
            if of_b not in shared or not holders:
                continue
            products = [
                update.adapter[of_b].cpu().double() @ update.adapter[of_a].cpu().double()
                for update in holders
            ]
            wanted = mean(products, [update.num_labels for update in holders])
            b, a = self._fitted(merged[of_b].cpu().double(), merged[of_a].cpu().double(), wanted)
            merged[of_b], merged[of_a] = (new.to(shared[of_b]) for new in (b, a))
        return merged

    def _fitted(self, b: Tensor, a: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(self.sweeps):
            b = b + (wanted - b @ a) @ torch.linalg.pinv(a)
            a = a + torch.linalg.pinv(b) @ (wanted - b @ a)
        return b, a


_A, _B = ".lora_A.", ".lora_B."
