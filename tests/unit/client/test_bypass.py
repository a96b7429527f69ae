"""Both ends of a client without the body between them: the local phase of SFPrompt, and which samples it keeps."""

import pytest
import torch
import torch.nn.functional as F

from splitcom.client.bypass import Bypass, el2n
from splitcom.data import IGNORED, batches
from splitcom.training.loss import learnt_at, losses_of
from splitcom.training.optimize import Optimizer
from splitcom.training.plan import LocalRound, num_round_batches

from .trainers import CONFIG, SAMPLES, Front, Last


def bypass_of(**client):
    front, tail, config = Front(), Last(), CONFIG.override({f"client.{key}": v for key, v in client.items()})
    optimizer = Optimizer([*front.parameters(), *tail.parameters()], config.training)
    return Bypass("c", front, tail, optimizer, config), front, tail


def scores():
    (batch,) = batches(SAMPLES, 3)
    logits = Last()(Front()(batch.input_ids, None), None)
    return el2n(logits, batch.labels)


def test_el2n_of_classes_is_the_squared_distance_from_the_label():
    logits, labels = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 3.0]]), torch.tensor([[0], [1]])
    distance = F.softmax(logits, -1) - F.one_hot(labels[:, 0], 3)
    torch.testing.assert_close(el2n(logits, labels), distance.norm(dim=1).square())


def test_el2n_of_text_is_the_mean_over_learnt_tokens_whichever_logits_are_given():
    labels = torch.tensor([[IGNORED, 1, 2], [IGNORED, IGNORED, 0]])
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    distance = (
        (F.softmax(logits[:, :-1], -1) - F.one_hot(labels[:, 1:].clamp(min=0), 4)).norm(dim=-1).square()
    )
    expected = torch.stack([distance[0].mean(), distance[1, 1]])
    torch.testing.assert_close(el2n(logits, labels), expected)
    torch.testing.assert_close(el2n(logits[learnt_at(labels)], labels), expected)


def test_those_predicted_worst_are_kept_in_their_order():
    worst = set(scores().argsort(descending=True)[:2].tolist())
    bypass, _, _ = bypass_of(keep=0.5)
    for round_index in (1, 2):
        assert bypass.kept(SAMPLES, round_index) == [s for i, s in enumerate(SAMPLES) if i in worst]


def test_random_ones_are_others_in_each_round_and_all_are_all():
    bypass, _, _ = bypass_of(keep=0.3, keep_by="random")
    drawn = [bypass.kept(SAMPLES, round_index) for round_index in range(12)]
    assert {len(one) for one in drawn} == {1} and len({one[0].sample_id for one in drawn}) == 3
    assert drawn == [bypass.kept(SAMPLES, round_index) for round_index in range(12)]
    assert bypass_of()[0].kept(SAMPLES, 1) == SAMPLES == bypass_of(keep=1.0)[0].kept(SAMPLES, 1)


def test_the_server_counts_the_batches_of_what_is_kept():
    config = CONFIG.override({"client.keep": 0.5})
    assert [num_round_batches(number, one, 1) for one in (CONFIG, config) for number in (3, 8)] == [
        2,
        4,
        1,
        2,
    ]


@pytest.mark.parametrize("epochs", [None, 0, 1])
def test_the_local_phase_trains_both_ends_on_their_own_loss(epochs):
    bypass, front, tail = bypass_of(bypass_epochs=epochs)
    taken = []
    step = bypass._optimizer.step

    def noted(progress):
        taken.append([parameter.grad.clone() for parameter in bypass._optimizer.parameters])
        step(progress)

    bypass._optimizer.step = noted
    bypass.train(SAMPLES, LocalRound(1, 1.0))
    assert len(taken) == (2 if epochs else 0)
    moved = [not torch.equal(part.scale, new().scale) for part, new in ((front, Front), (tail, Last))]
    assert moved == [bool(epochs)] * 2
    if epochs:
        whole, last = Front(), Last()
        found = []
        for batch in (batches([one], 1)[0] for one in SAMPLES):
            losses = losses_of(last(whole(batch.input_ids, None), None), batch.labels).losses
            found.append(torch.autograd.grad(losses.sum(), [whole.scale, last.scale], retain_graph=True))
        pairs = [(i, j) for i in range(3) for j in range(i)]  # one of these is the first batch
        numbers = [len(sample.input_ids) - 1 for sample in SAMPLES]
        means = [(found[i][0] + found[j][0]) / (numbers[i] + numbers[j]) for i, j in pairs]
        assert any(torch.allclose(taken[0][0], mean) for mean in means)
