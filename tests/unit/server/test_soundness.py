"""A step that cannot be taken: whose batch it is that spoils it, and when it is the training."""

import re

import pytest

from splitcom.engines.engine import StepResult
from splitcom.errors import NonFiniteError, OutOfRangeError
from splitcom.server.soundness import SoundEngine


class Clients:
    def __init__(self, *names):
        self.present, self.refused = list(names), []

    def refuse(self, name, reason):
        self.refused.append((name, reason))
        self.present.remove(name)


class Engine:
    """Batches are words; a "spoilt" one breaks any step, and a "large" one is sound but breaks it, too."""

    def step(self, arrivals, position, progress):
        return self._result(arrivals)

    def forward(self, arrivals, position, *, trains=True):
        self._result(arrivals)
        return tuple(arrivals)

    def backward(self, passage, gradients, progress):
        return self._result(gradients)

    def is_sound(self, arrival, gradient=None, below=1e30):
        return "spoilt" not in (arrival, gradient)

    def evaluate(self, arrival):
        return StepResult(None, float("nan") if arrival == "spoilt" else 2.0, 4)

    def pass_held_out(self, arrival):
        self._result({"": arrival})
        return arrival

    def _result(self, words):
        if {"spoilt", "large"} & set(words.values()):
            raise NonFiniteError("training has diverged")
        return {name: StepResult(None, 1.0, 1) for name in words}


def test_the_step_is_taken_without_the_client_that_spoils_it():
    clients = Clients("a", "b", "c")
    engine = SoundEngine(Engine(), clients)
    assert list(engine.step({"a": "good", "b": "spoilt", "c": "good"}, (1, 0), 0.0)) == ["a", "c"]
    ((name, reason),) = clients.refused
    assert name == "b" and "training has diverged: lower training.lr, or set training.clip_norm" in reason
    assert not re.search(
        "poison|malicious|hostile|attack", reason
    )  # an early divergence is all that it may be
    passage, left = SoundEngine(Engine(), Clients("a", "b")).forward(
        {"a": "good", "b": "spoilt"}, (1, 0), trains=True
    )
    assert passage == ("a",) and list(left) == ["a"]
    backward = engine.backward(("a", "c"), {"a": "spoilt", "c": "good"}, {"a": "good", "c": "good"}, 0.0)
    assert list(backward) == ["c"] and clients.present == ["c"]


@pytest.mark.parametrize("batches", [{"a": "large", "b": "good"}, {"a": "spoilt", "b": "spoilt"}])
def test_a_step_that_is_spoilt_by_nobody_or_by_all_is_diverged_training(batches):
    clients = Clients("a", "b")
    with pytest.raises(NonFiniteError, match="training has diverged"):
        SoundEngine(Engine(), clients).step(batches, (1, 0), 0.0)
    assert not clients.refused


def test_a_held_out_batch_is_its_clients_own_affair():
    clients = Clients("a", "b")
    engine = SoundEngine(Engine(), clients)
    assert engine.pass_held_out("a", "good") == "good"
    assert engine.pass_held_out("a", "spoilt") is None and clients.present == ["b"]
    clients = Clients("a", "b")
    engine = SoundEngine(Engine(), clients)
    assert engine.evaluate("a", "good").loss_sum == 2.0
    assert engine.evaluate("b", "spoilt") is None and clients.present == ["a"]
    with pytest.raises(
        NonFiniteError, match=r"a: the loss of a held-out batch is nan; training has diverged"
    ):
        engine.evaluate("a", "spoilt")  # nobody else is left


def overflow():
    raise OutOfRangeError("flow gradient_down: 1e5 is beyond the range of fp16; end this codec in bf16")


def test_what_a_codec_cannot_hold_is_its_clients_affair_if_that_of_others_can_be_held():
    clients = Clients("a", "b", "c")
    engine = SoundEngine(Engine(), clients)
    with pytest.raises(OutOfRangeError, match="end this codec in bf16"):
        engine.packed("a", "gradient_down", "spoilt", overflow)  # of a model that nobody's codec holds
    assert engine.packed("a", "gradient_down", "good", lambda: b"packet") == b"packet"
    with pytest.raises(OutOfRangeError):
        engine.packed("a", "gradient_down", "spoilt", overflow)
    with pytest.raises(OutOfRangeError):
        engine.packed("b", "gradient_down", "good", overflow)  # training has diverged
    with pytest.raises(OutOfRangeError):
        engine.packed("b", "evaluation", "spoilt", overflow)  # another flow, of which nobody's has been held
    assert not clients.refused
    assert engine.packed("b", "gradient_down", "good", overflow, "spoilt") is None
    assert engine.packed("c", "gradient_down", "spoilt", overflow) is None
    assert [name for name, _ in clients.refused] == ["b", "c"]
    assert all("end this codec in bf16" in reason for _, reason in clients.refused)
