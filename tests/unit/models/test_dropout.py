"""Draws of dropout."""

import pytest
import torch

from splitcom.models.dropout import seed_dropout


def test_draws_are_those_of_torch_and_no_stack_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2**62 + 3)
    expected = torch.nn.functional.dropout(torch.ones(100))
    calls: list[int] = []
    monkeypatch.setattr(torch, "manual_seed", calls.append)
    seed_dropout(torch.device("cpu"), 2**62 + 3)
    assert torch.equal(torch.nn.functional.dropout(torch.ones(100)), expected)
    assert not calls
    seed_dropout(torch.device("cuda"), 5)
    assert calls == [5]
