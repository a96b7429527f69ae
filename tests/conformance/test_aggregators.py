"""What holds of every registered aggregator."""

import itertools
from dataclasses import replace

import pytest
import torch

from splitcom.aggregation import AGGREGATORS, Update, parse
from splitcom.errors import AdapterError

TEXTS = {
    "fedavg": "fedavg",
    "fedavgm": "fedavgm(momentum=0.5)",
    "fedadam": "fedadam(beta1=0.8)",
    "trimmed_mean": "trimmed_mean(0.2)",
    "median": "median",
    "fedyogi": "fedyogi(tau=0.01)",
    "fedadagrad": "fedadagrad(lr=0.02)",
    "fedex": "fedex(sweeps=4)",
    "krum": "krum(0.2)",
    "multi_krum": "multi_krum(0.2)",
    "norm_clip": "norm_clip(5.0)",
    "dp_fedavg": "dp_fedavg(5.0, 0.0001, seed=1)",
}
ROBUST = ["trimmed_mean", "median", "krum", "multi_krum"]
SHAPES = {"a.lora_A": (4, 6), "a.lora_B": (5, 4), "b": (7,)}


def adapter(seed, names=tuple(SHAPES), around=0.0, spread=0.1):
    generator = torch.Generator().manual_seed(seed)
    return {name: around + spread * torch.randn(SHAPES[name], generator=generator) for name in names}


def update(seed, num_labels=10, **kwargs):
    return Update(adapter(seed, **kwargs), num_labels, version=1, client=f"client-{seed}")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


every = pytest.mark.parametrize("name", TEXTS)


def test_every_aggregator_is_here():
    assert TEXTS.keys() == AGGREGATORS.keys()


@every
def test_the_canonical_text_reads_back(name):
    assert str(parse(TEXTS[name])) == TEXTS[name]


@every
def test_names_shapes_and_dtypes_are_those_of_the_shared_adapter(name):
    shared = adapter(0) | {"half": torch.ones(3, dtype=torch.float16)}
    before = {key: tensor.clone() for key, tensor in shared.items()}
    merged = parse(TEXTS[name]).merge(shared, [update(seed) for seed in range(1, 4)])
    assert [(key, tensor.shape, tensor.dtype) for key, tensor in merged.items()] == [
        (key, tensor.shape, tensor.dtype) for key, tensor in shared.items()
    ]
    assert same(shared, before)


@every
@pytest.mark.parametrize("num_equal", [1, 3, 5])
def test_updates_that_agree_are_followed(name, num_equal):
    shared = adapter(0)
    updates = [Update(adapter(1), 10 + i, 1, client=str(i)) for i in range(num_equal)]
    merged = parse(TEXTS[name]).merge(shared, updates)
    if name in ("fedavg", *ROBUST):
        assert same(merged, adapter(1))
    for key, tensor in merged.items():  # the others go their way
        assert ((tensor - shared[key]) * (updates[0].adapter[key] - shared[key]) > 0).all()


@every
def test_the_order_in_which_updates_come_changes_no_bit(name):
    shared = adapter(0)
    updates = [update(seed, num_labels=7 * seed) for seed in range(1, 6)]
    merged = parse(TEXTS[name]).merge(shared, updates)
    for order in itertools.islice(itertools.permutations(updates), 1, None, 17):
        assert same(parse(TEXTS[name]).merge(shared, order), merged)


@every
def test_a_tensor_is_combined_of_those_who_hold_it(name):
    shared = adapter(0)
    both, one = update(1), update(2, names=("b",))
    merged = parse(TEXTS[name]).merge(shared, [both, one])
    alone = parse(TEXTS[name]).merge(shared, [both])
    assert torch.equal(merged["a.lora_A"], alone["a.lora_A"])
    assert not torch.equal(merged["b"], alone["b"])
    nobody = parse(TEXTS[name]).merge(shared, [one])
    assert torch.equal(nobody["a.lora_A"], shared["a.lora_A"])


@every
def test_what_does_not_fit_is_refused_by_name(name):
    wrong = Update({"b": torch.zeros(8)}, 10, 1, client="client-3")
    with pytest.raises(AdapterError, match=r"'b' of the adapter of client-3 has shape \[8\].*\[7\]"):
        parse(TEXTS[name]).merge(adapter(0), [update(1), wrong])
    with pytest.raises(AdapterError, match="client-3 holds a tensor 'c'"):
        parse(TEXTS[name]).merge(adapter(0), [Update({"c": torch.zeros(7)}, 10, 1, client="client-3")])


@every
def test_tokens_weigh_where_the_aggregator_says_so(name):
    shared = adapter(0)
    even = [update(1, 10), update(2, 10), update(3, 10)]
    uneven = [update(1, 30), update(2, 10), update(3, 10)]
    differs = not same(parse(TEXTS[name]).merge(shared, even), parse(TEXTS[name]).merge(shared, uneven))
    assert differs == AGGREGATORS[name].weighs


@every
def test_a_state_goes_on_to_the_same_bits(name):
    def merged(aggregator, shared, rounds):
        for index in rounds:
            shared = aggregator.merge(shared, [update(10 * index + seed, around=0.1) for seed in range(3)])
        return shared

    straight = parse(TEXTS[name])
    halfway = merged(straight, adapter(0), range(1, 3))
    state = straight.state()
    resumed = parse(TEXTS[name])
    merged(resumed, adapter(5), range(7, 9))  # what it has seen before is forgotten
    resumed.load_state(state)
    assert same(merged(straight, halfway, range(3, 6)), merged(resumed, halfway, range(3, 6)))

    resumed.load_state(parse(TEXTS[name]).state())
    assert same(merged(resumed, adapter(0), range(1, 3)), halfway)


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("poison", [1e4, -1e4])
def test_one_poisoned_update_of_five_moves_nothing_beyond_the_others(name, poison):
    shared = adapter(0)
    honest = [update(seed) for seed in range(1, 5)]
    poisoned = Update({key: torch.full(shape, poison) for key, shape in SHAPES.items()}, 10**9, 1, client="x")
    merged = parse(TEXTS[name]).merge(shared, [*honest, poisoned])
    for key, tensor in merged.items():
        theirs = torch.stack([one.adapter[key] for one in honest])
        assert (theirs.amin(0) <= tensor).all() and (tensor <= theirs.amax(0)).all()
    average = parse("fedavg").merge(shared, [*honest, poisoned])
    assert all((tensor.abs() > 1e3).all() for tensor in average.values())


@every
def test_of_fewer_updates_than_needed_it_is_their_mean(name):
    aggregator, shared = parse(TEXTS[name]), {"a": torch.tensor([0.0])}
    few = aggregator.min_updates - 1
    updates = [Update({"a": torch.tensor([float(2**i)])}, 10, 1, client=str(i)) for i in range(few)]
    if few:
        assert aggregator.merge(shared, updates)["a"].item() == pytest.approx((2**few - 1) / few)


@pytest.mark.parametrize("where", ["server", "clients"])
def test_noise_of_a_sum_is_as_large_as_the_bound_says_wherever_it_comes_from(where):
    shared, count = {"a": torch.zeros(20_000, dtype=torch.float64)}, 4
    aggregator = parse(f"dp_fedavg(0.5, noise=3, where={where})")
    zero = [Update(dict(shared), 10, 1, client=str(index)) for index in range(count)]
    if where == "clients":
        zero = [
            replace(one, adapter={"a": aggregator.share("a", shared["a"], count, (one.client,))})
            for one in zero
        ]

    noise = aggregator.merge(shared, zero)["a"] * count

    assert float(noise.std()) == pytest.approx(1.5, rel=0.03)
    assert not torch.equal(aggregator.merge(shared, zero)["a"] * count, noise) or where == "clients"


def test_no_update_moves_a_private_mean_by_more_than_its_part_of_the_bound():
    shared = {"a": torch.zeros(50, dtype=torch.float64)}
    huge = Update({"a": torch.full((50,), 1e6, dtype=torch.float64)}, 10**9, 1, client="huge")
    still = Update(dict(shared), 1, 1, client="still")

    moved = parse("dp_fedavg(0.5, noise=1e-9)").merge(shared, [huge, still])["a"]

    assert float(moved.norm()) == pytest.approx(0.25, rel=1e-6)
