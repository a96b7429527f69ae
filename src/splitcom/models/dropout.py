"""The draws of dropout, begun anew from a seed."""

import torch


def seed_dropout(device: torch.device, seed: int) -> None:
    """Seed the generator from which dropout on a device draws, as torch.manual_seed(seed) does.

    On the CPU that alone is seeded. torch.manual_seed also keeps the stack of each call for every kind of device that
    has not been used yet, which takes longer than a small model's step.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
