"""Noise on what leaves a client, and how many vectors have left."""

from types import SimpleNamespace

import pytest
import torch

from splitcom.client.front import FrontTrainer
from splitcom.client.wrapper import Noised, wrapped
from splitcom.codecs import Ragged
from splitcom.privacy import Gaussian
from splitcom.protocol.messages_pb2 import EvaluationEnd, Gradient, Message, ReferenceLost
from splitcom.training.plan import LocalRound

from .trainers import CONFIG, SAMPLES, Front, channels

MECHANISM = Gaussian(noise=0.5, clip=1.0, gradients=0.1)


def noised(folder, is_fixed=False, mechanism=MECHANISM):
    inner = SimpleNamespace(num_samples=2, num_held_out=1, leaving=None)
    return inner, Noised(inner, "c", mechanism, folder, is_fixed=is_fixed)


def batch(*lengths, width=8):
    return Ragged(torch.ones(sum(lengths), width), torch.tensor(lengths))


def test_every_visit_counts_each_token_of_a_sample_also_after_a_crash(tmp_path):
    inner, wrapper = noised(tmp_path)
    for position in ((1, 0), (2, 0)):
        inner.leaving("activation_up", batch(3, 5), [7, 9], position)
    inner.leaving("gradient_up", batch(5), [9], (2, 0), 0.1)
    inner.leaving("evaluation", batch(4), [9], (2, 0))

    assert wrapper.num_released == 15
    _, again = noised(tmp_path)
    assert again.num_released == 15


def test_a_front_that_never_changes_releases_a_sample_once_also_after_a_crash(tmp_path):
    inner, wrapper = noised(tmp_path, is_fixed=True)
    first = inner.leaving("activation_up", batch(3, 5), [7, 9], (1, 0))
    again, resumed = noised(tmp_path, is_fixed=True)

    for leaving, position in ((inner.leaving, (2, 0)), (again.leaving, (2, 1))):
        assert leaving("activation_up", batch(5), [9], position).values.equal(first.values[3:])
    assert wrapper.num_released == resumed.num_released == 5
    assert not first.values[:3].equal(first.values[3:6]), "of another sample"
    assert not inner.leaving("evaluation", batch(5), [9], (2, 0)).values.equal(first.values[3:])
    assert (tmp_path / "noise.key").stat().st_mode & 0o077 == 0


def test_a_front_that_never_changes_has_new_gradients_at_each_visit(tmp_path):
    inner, _ = noised(tmp_path, is_fixed=True)
    inner.leaving("activation_up", batch(5), [9], (1, 0))
    found = [inner.leaving("gradient_up", batch(5), [9], (visit, 0)).values for visit in (1, 2)]
    _, resumed = noised(tmp_path, is_fixed=True)

    assert not found[0].equal(found[1]) and resumed.num_released == 15


@pytest.mark.parametrize(
    ("changes", "is_fixed"),
    [
        ({"lora.train_front": False}, True),
        ({"lora.train_front": True}, False),
        ({"lora.train_front": False, "lora.prompt_tokens": 2}, False),
        ({"lora.train_front": False, "model.bottleneck": 0.5}, False),
        ({"lora.train_front": False, "federation.cuts.every": 1, "federation.cuts.most": 3}, False),
    ],
)
def test_noise_is_new_at_each_visit_of_a_front_that_changes(tmp_path, changes, is_fixed):
    inner = SimpleNamespace(num_samples=2, num_held_out=1, leaving=None)
    wrapped(inner, "c", CONFIG.override({"client.privacy": str(MECHANISM), **changes}), tmp_path)

    found = [inner.leaving("activation_up", batch(5), [9], (visit, 0)).values for visit in (1, 2)]

    assert found[0].equal(found[1]) == is_fixed


def test_an_exact_evaluation_sends_what_the_one_before_has_released_unless_the_adapter_is_another(tmp_path):
    inner, wrapper = noised(tmp_path)
    passes = []

    def evaluate(round_index, *, exact, most):
        passes.append(inner.leaving("evaluation", batch(4), [9], (round_index, 0)).values)
        return EvaluationEnd()
        yield

    inner.evaluate, inner.load_adapter = evaluate, lambda state: None
    for exact in (False, True, False):
        with pytest.raises(StopIteration) as end:
            next(wrapper.evaluate(1, exact=exact))
    wrapper.load_adapter({})
    with pytest.raises(StopIteration) as end:
        next(wrapper.evaluate(1, exact=True))

    assert passes[1].equal(passes[0]) and not passes[2].equal(passes[1]) and not passes[3].equal(passes[2])
    assert end.value.value.num_released == 12


def test_gradients_are_clipped_as_large_as_what_they_are_of(tmp_path):
    inner, _ = noised(tmp_path, mechanism=Gaussian(noise=1e-9, clip=1.0, gradients=0.5))

    left = inner.leaving("gradient_up", batch(2), [7], (1, 0), 0.1)

    torch.testing.assert_close(left.values.norm(dim=1), torch.full((2,), 0.05))


def test_a_packet_that_is_sent_again_tells_nothing_new(tmp_path):
    trainer = FrontTrainer("c", Front(), SAMPLES[:2], [], channels(), CONFIG)
    wrapper = Noised(trainer, "c", MECHANISM, tmp_path, is_fixed=False)
    server, steps = channels(), wrapper.train(LocalRound(1, 1.0))
    first = next(steps)
    again = steps.send(Message(reference_lost=ReferenceLost(step=0, sample_ids=[3, 5])))

    got = [
        server["activation_up"].decode(message.activation.activation, 1 << 20) for message in (first, again)
    ]
    assert got[0].batch.values.equal(got[1].batch.values)
    zeros = Ragged(torch.zeros_like(got[0].batch.values), got[0].batch.lengths)
    gradient = server["gradient_down"].encode(zeros, got[0].ids, (1, 0))
    with pytest.raises(StopIteration) as end:
        steps.send(Message(gradient=Gradient(step=0, gradient=gradient)))
    assert end.value.value.num_released == 3
