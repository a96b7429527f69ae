"""What the end of training is warned of."""

import pytest
import torch

from splitcom.config import Config
from splitcom.methods.findings import effective, findings

CONFIG = Config()
A, B = "block.lora_A.weight", "block.lora_B.weight"


def adapter(a: float = 1.0, b: float = 0.0) -> dict[str, torch.Tensor]:
    return effective({A: torch.full((2, 4), a), B: torch.full((4, 2), b)})


@pytest.mark.parametrize(
    ("after", "last", "said"),
    [
        (adapter(b=1e-3), 2.5, None),
        (adapter(), 3.0, "the adapters have not moved"),
        (adapter(a=0.5), 3.0, "the adapters have not moved"),  # by weight decay: B is 0 still
        (adapter(b=1e-30), 3.0, "exactly what it was before, 3; raise training.lr"),
        (adapter(b=9.0), 3.25, r"risen by 0.25 nats, to 3.25 (lowest: 2.9); lower training.lr"),
    ],
)
def test_a_run_that_has_learnt_nothing_is_told_so_with_what_may_help(after, last, said, caplog):
    found = findings(adapter(), after, {0: 3.0, 1: 2.9, 2: last}, CONFIG)
    assert len(found) == (said is not None)
    for warning in found:
        assert said in warning and warning in caplog.text


def test_a_copy_is_compared_and_not_the_tensors_that_are_trained():
    tensors = {B: torch.zeros(4, 2)}
    before = effective(tensors)
    tensors[B] += 1
    assert not before[B].any()


def test_without_an_adapter_only_the_loss_can_tell():
    assert not findings({}, {}, {0: 3.0, 1: 2.0}, CONFIG)
