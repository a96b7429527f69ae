"""Each aggregator's formula, by hand."""

import pytest
import torch

from splitcom.aggregation import FedAvg, Update, parse
from splitcom.aggregation.fedadagrad import FedAdagrad
from splitcom.aggregation.fedadam import FedAdam
from splitcom.aggregation.fedavgm import FedAvgM
from splitcom.aggregation.fedex import FedEx
from splitcom.aggregation.fedyogi import FedYogi
from splitcom.aggregation.krum import Krum
from splitcom.aggregation.median import Median
from splitcom.aggregation.multi_krum import MultiKrum
from splitcom.aggregation.norm_clip import NormClip
from splitcom.aggregation.trimmed_mean import TrimmedMean
from splitcom.errors import SpecError


def merged(aggregator, old, *new):
    """One number, of updates `(value, tokens)`."""
    updates = [
        Update({"a": torch.tensor([value])}, tokens, 1, client=str(index))
        for index, (value, tokens) in enumerate(new)
    ]
    return aggregator.merge({"a": torch.tensor([old])}, updates)["a"].item()


def test_fedavg_weighs_tokens_whatever_their_scale():
    assert merged(FedAvg(), 9.0, (1.0, 3), (5.0, 1)) == 2.0
    assert merged(FedAvg(), 9.0, (1.0, 3000), (5.0, 1000)) == 2.0


def test_fedavgm_goes_on_in_the_direction_it_went():
    aggregator = FedAvgM(momentum=0.5, lr=2.0)
    assert merged(aggregator, 1.0, (2.0, 10)) == 3.0  # v = 1
    assert merged(aggregator, 3.0, (3.0, 10)) == 4.0  # v = 0.5
    assert merged(FedAvgM(momentum=0.0), 1.0, (2.0, 3), (6.0, 1)) == 3.0


def test_fedadam_is_the_paper_s():
    aggregator = FedAdam(lr=0.1, beta1=0.5, beta2=0.75, tau=0.5)
    first = 0.1 * 0.5 / ((0.75 * 0.25 + 0.25) ** 0.5 + 0.5)
    assert merged(aggregator, 0.0, (1.0, 10)) == pytest.approx(first)
    second = 0.1 * (0.25 + 0.5 * 2) / ((0.75 * 0.4375 + 0.25 * 4) ** 0.5 + 0.5)
    assert merged(aggregator, 1.0, (3.0, 10)) == pytest.approx(1 + second)


def test_fedyogi_adds_what_is_new_where_fedadam_goes_towards_it():
    aggregator = FedYogi(lr=0.1, beta1=0.5, beta2=0.75, tau=0.5)  # v = 0.25, below d ** 2: it grows
    first = 0.1 * 0.5 / ((0.25 + 0.25 * 1) ** 0.5 + 0.5)
    assert merged(aggregator, 0.0, (1.0, 10)) == pytest.approx(first)
    second = (
        0.1 * (0.25 + 0.5 * 0.5) / ((0.5 - 0.25 * 0.25) ** 0.5 + 0.5)
    )  # v = 0.5, above 0.5 ** 2: it shrinks
    assert merged(aggregator, 1.0, (1.5, 10)) == pytest.approx(1 + second)


def test_fedadagrad_adds_up_all_squares():
    aggregator = FedAdagrad(lr=0.1, tau=0.5)
    first = 0.1 * 1 / ((0.25 + 1) ** 0.5 + 0.5)
    assert merged(aggregator, 0.0, (1.0, 10)) == pytest.approx(first)
    second = 0.1 * 2 / ((0.25 + 1 + 4) ** 0.5 + 0.5)
    assert merged(aggregator, 1.0, (3.0, 10)) == pytest.approx(1 + second)


def test_krum_takes_one_that_is_near_the_others_and_multi_krum_all_but_the_farthest():
    near = [(1.0, 1), (1.1, 1), (1.3, 1), (2.0, 1)]
    # f = 1, so the two nearest count: 0.01 + 0.09, 0.01 + 0.04, 0.04 + 0.09, 0.49 + 0.81, and far away
    assert merged(Krum(0.2), 0.0, *near, (-50.0, 1)) == pytest.approx(1.1)
    assert merged(MultiKrum(0.2), 0.0, *near, (-50.0, 10**9)) == pytest.approx(5.4 / 4)
    assert merged(Krum(0.2), 0.0, *near[:3], (-50.0, 1)) == pytest.approx(-46.6 / 4)  # too few to tell
    assert (Krum(0.2).min_updates, Krum(0.4).min_updates, Krum(0.1).min_updates) == (5, 5, 10)


def test_krum_measures_whole_updates_and_counts_what_one_lacks_as_unchanged():
    shared = {"a": torch.zeros(1), "b": torch.zeros(1)}

    def update(client, a, b):
        held = {"a": torch.tensor([a])} | ({} if b is None else {"b": torch.tensor([b])})
        return Update(held, 1, 1, client=client)

    others = [update(str(index), 1.0 + index / 10, 1.0) for index in range(4)]  # 1.15 in the mean
    for b in (9.0, None):  # in the midst of the others in one tensor, far away in the other
        merged = MultiKrum(0.2).merge(shared, [*others, update("x", 1.3, b)])
        assert merged["a"].item() == pytest.approx(1.15) and merged["b"].item() == pytest.approx(1.0)


def test_norm_clip_shortens_what_is_longer_than_its_bound_and_keeps_its_direction():
    aggregator = NormClip(2.0)
    assert merged(aggregator, 1.0, (3.0, 1)) == 3.0
    assert merged(aggregator, 1.0, (3.5, 1)) == pytest.approx(3.0)
    assert merged(aggregator, 1.0, (-999.0, 3), (2.0, 1)) == pytest.approx(1 + (3 * -2 + 1) / 4)


def test_the_median_of_an_even_number_lies_between_the_two_in_the_middle():
    assert merged(Median(), 9.0, (5.0, 1), (1.0, 99), (3.0, 1)) == 3.0
    assert merged(Median(), 9.0, (5.0, 1), (1.0, 99), (3.0, 1), (100.0, 1)) == 4.0


@pytest.mark.parametrize(
    ("part", "count", "expected", "least"),
    [(0.2, 5, 14 / 3, 5), (0.4, 5, 4.0, 3), (0.2, 4, 15 / 4, 5), (0.3, 10, 120 / 4, 4)],
)
def test_the_trimmed_mean_leaves_out_a_part_at_either_end(part, count, expected, least):
    values = [(float(2**i), 1) for i in reversed(range(count))]
    assert merged(TrimmedMean(part), 0.0, *values) == pytest.approx(expected)
    assert TrimmedMean(part).min_updates == least


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("fedavgm(momentum=1.0)", 17, "momentum must be at least 0 and below 1; it is 1.0"),
        ("fedavgm(0.9, 0)", 13, "lr must be above 0; it is 0.0"),
        ("fedadam(tau=0)", 12, "tau must be above 0; it is 0.0"),
        ("fedadam(beta1=-0.1)", 14, "beta1 must be at least 0 and below 1; it is -0.1"),
        ("fedadam(beta2=1)", 14, "beta2 must be at least 0 and below 1; it is 1.0"),
        ("krum(0.5)", 5, "part must lie between 0 and 0.5; it is 0.5"),
        ("multi_krum(0)", 11, "part must lie between 0 and 0.5; it is 0.0"),
        ("norm_clip(0)", 10, "bound must be above 0; it is 0.0"),
        ("trimmed_mean(0.5)", 13, "part must lie between 0 and 0.5; it is 0.5"),
        ("trimmed_mean", 0, "trimmed_mean needs part: trimmed_mean(part)"),
        ("fedavg(0.9)", 7, "too many arguments: fedavg()"),
        ("medain", 0, "no aggregator 'medain'; did you mean 'median'?"),
        ("fedavg > median", 7, "expected the end, found '>'"),
    ],
)
def test_errors_point_at_the_place(text, place, message):
    with pytest.raises(SpecError) as caught:
        parse(text)
    assert message in str(caught.value) and caught.value.position == place


def test_the_canonical_text_leaves_defaults_out():
    assert str(parse("fedavgm( lr=1, momentum = 0.9 )")) == "fedavgm"
    assert str(parse("fedadam(0.02, tau=0.5)")) == "fedadam(lr=0.02, tau=0.5)"


def lora_updates(num_outputs, rank, num_inputs, count, within=None):
    """Updates of one module; with `within`, products of all lie in the span of as many directions."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    basis = draw(within, num_inputs) if within else None
    return [
        Update(
            {
                "m.lora_A.weight": draw(rank, num_inputs) if basis is None else draw(rank, within) @ basis,
                "m.lora_B.weight": draw(num_outputs, rank),
            },
            num_labels,
            1,
            client=str(num_labels),
        )
        for num_labels in range(1, count + 1)
    ]


def products_of(updates):
    """FedEx-LoRA's formula: the mean of products, and that of the means with the residual that is due."""
    total = sum(update.num_labels for update in updates)
    weights = [update.num_labels / total for update in updates]
    a, b = (
        sum(w * u.adapter[f"m.lora_{kind}.weight"] for w, u in zip(weights, updates, strict=True))
        for kind in "AB"
    )
    exact = sum(
        w * u.adapter["m.lora_B.weight"] @ u.adapter["m.lora_A.weight"]
        for w, u in zip(weights, updates, strict=True)
    )
    residual = exact - b @ a
    return exact, b @ a, residual


def test_fedex_gives_the_mean_of_products_if_the_rank_holds_it():
    updates = lora_updates(5, 2, 6, count=3, within=2)
    exact, of_means, residual = products_of(updates)
    shared = {name: torch.zeros_like(tensor) for name, tensor in updates[0].adapter.items()}
    merged = FedEx().merge(shared, updates)
    found = merged["m.lora_B.weight"] @ merged["m.lora_A.weight"]
    torch.testing.assert_close(found, of_means + residual)
    assert (exact - of_means).norm() > 0.3 * exact.norm()  # what fedavg leaves out
    plain, none = (one.merge(shared, updates) for one in (FedAvg(), FedEx(sweeps=0)))
    assert all(torch.equal(plain[name], none[name]) for name in plain)


def test_fedex_tends_to_the_best_that_the_rank_holds():
    updates = lora_updates(5, 2, 6, count=3)
    exact, of_means, _ = products_of(updates)
    left, sizes, right = torch.linalg.svd(exact)
    best = (left[:, :2] * sizes[:2]) @ right[:2]
    shared = {name: torch.zeros_like(tensor) for name, tensor in updates[0].adapter.items()}
    errors = []
    for sweeps in (1, 8, 60):
        merged = FedEx(sweeps).merge(shared, updates)
        errors.append((merged["m.lora_B.weight"] @ merged["m.lora_A.weight"] - exact).norm())
    assert (of_means - exact).norm() > errors[0] >= errors[1] >= errors[2]
    torch.testing.assert_close(errors[2], (best - exact).norm(), rtol=1e-3, atol=0)
