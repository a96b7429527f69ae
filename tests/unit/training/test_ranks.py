import torch

from splitcom.aggregation import Update, parse
from splitcom.training.ranks import lowered, slices_of, whole_of


def adapter(rank: int, value: float) -> dict[str, torch.Tensor]:
    return {
        "q.lora_A.weight": torch.full((rank, 3), value),
        "q.lora_B.weight": torch.full((5, rank), value),
        "norm.weight": torch.full((3,), value),
    }


def test_each_slice_is_averaged_over_those_who_hold_it() -> None:
    shared = slices_of(adapter(4, 0.0), [2, 4])
    updates = [
        Update(slices_of(adapter(rank, value), [2, 4]), labels, 1, client=name)
        for name, rank, value, labels in (("a", 2, 1.0, 30), ("b", 4, 5.0, 10))
    ]
    merged = whole_of(parse("fedavg").merge(shared, updates), [2, 4])
    assert {name: list(tensor.shape) for name, tensor in merged.items()} == {
        name: list(tensor.shape) for name, tensor in adapter(4, 0.0).items()
    }
    assert merged["q.lora_A.weight"][:, 0].tolist() == [
        2.0,
        2.0,
        5.0,
        5.0,
    ]  # (30 * 1 + 10 * 5) / 40, and 5 alone
    assert merged["q.lora_B.weight"][0].tolist() == [2.0, 2.0, 5.0, 5.0]
    assert merged["norm.weight"].tolist() == [2.0] * 3
    assert lowered("q.lora_B.weight", merged["q.lora_B.weight"], 2).tolist() == [[2.0, 2.0]] * 5


def test_of_one_rank_nothing_is_cut_up() -> None:
    whole = adapter(4, 1.0)
    assert slices_of(whole, [4]) is whole and whole_of(whole, [4]) == whole
