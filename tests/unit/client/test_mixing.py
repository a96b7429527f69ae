"""What a client has made of the shared adapter goes into its next round, if it was trained."""

import torch

from splitcom.client.client import RoundSummary
from splitcom.client.wrapper import Mixing
from splitcom.training.plan import LocalRound


class _Adder:
    """A trainer that adds 1 to an adapter of one number, unless the front is frozen."""

    num_samples = num_held_out = 1

    def __init__(self):
        self.number = torch.zeros(1)

    def adapter(self):
        return {"x": self.number}

    def load_adapter(self, tensors):
        self.number = tensors["x"]

    def train(self, local):
        if not local.is_frozen:
            self.number = self.number + 1
        return RoundSummary(1, 1)
        yield


def _trained(trainer, shared, local):
    """What a round that begins from this shared number ends with."""
    trainer.load_adapter({"x": torch.tensor([shared])})
    for _ in trainer.train(local):
        pass
    return float(trainer.adapter()["x"])


def test_what_was_made_is_mixed_in_and_a_round_at_rest_makes_nothing():
    trainer = Mixing(_Adder(), "client-0", rate=0.0)  # w = 1: its own alone
    assert _trained(trainer, 5.0, LocalRound(1, 1.0, is_frozen=True)) == 5.0
    assert _trained(trainer, 7.0, LocalRound(2, 2.0)) == 8.0, "not what it held at rest"
    assert _trained(trainer, 3.0, LocalRound(3, 3.0)) == 9.0, "its own, and not the shared one"
