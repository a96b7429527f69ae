"""Claims that cannot be, by kind of run."""

import pytest
import torch

from splitcom.codecs import Ragged
from splitcom.config import Config
from splitcom.engines.engine import StepResult
from splitcom.errors import RemoteProtocolError
from splitcom.protocol.messages_pb2 import EvaluationEnd, Hello, ReferenceLost, RoundEnd
from splitcom.server.claims import (
    bounded_losses,
    check_evaluation_end,
    check_hello,
    check_lost_gradient,
    check_round_end,
    check_step,
    warn_of_sizes,
)
from splitcom.server.state import ClientState, Task

SPLIT = Config(training={"batch_size": 4})
WHOLE = Config(method="fedlora", training={"batch_size": 4, "split": False})


@pytest.mark.parametrize("step", [0, 2, 3])
def test_steps_follow_one_another_to_the_last_of_a_round(step):
    with pytest.raises(RemoteProtocolError, match=f"step {step} of a round of 3, after 1"):
        check_step(step, Task(1, 1, next_step=1), 9, SPLIT)
    check_step(1, Task(1, 1, next_step=1), 9, SPLIT)


def test_no_step_comes_after_the_last():
    with pytest.raises(RemoteProtocolError, match="step 3 of a round of 3, after 3"):
        check_step(3, Task(1, 1, next_step=3), 9, SPLIT)


def test_only_the_last_gradient_of_a_round_that_is_still_held_can_be_lost():
    gradient = Ragged(torch.zeros(1, 2), torch.tensor([1])), [7]
    check_lost_gradient(
        ReferenceLost(step=1), ClientState({}, task=Task(1, 1, next_step=2), gradient=gradient)
    )
    for state, step in (
        (ClientState({}, task=Task(1, 1, next_step=2), gradient=gradient), 0),
        (ClientState({}, task=Task(1, 1, next_step=2)), 1),
        (ClientState({}), 0),
    ):
        with pytest.raises(RemoteProtocolError, match=f"the gradient of step {step} is lost"):
            check_lost_gradient(ReferenceLost(step=step), state)


@pytest.mark.parametrize(
    ("config", "claim", "message"),
    [
        (SPLIT, {"round": 2}, "the end of round 2; it is in round 1"),
        (SPLIT, {"round": 1, "loss_sum": -1.0}, "a loss of -1.0"),
        (WHOLE, {"num_steps": 4}, "4 steps; 1 to 3 are possible"),
        (WHOLE, {"num_tokens": 9 * 256 + 1}, "2305 tokens trained on; 1 to 2304"),
        (WHOLE, {"num_labels": 101}, "101 labelled tokens; 1 to 100"),
        (WHOLE, {"loss_sum": float("nan")}, "a loss of nan"),
    ],
)
def test_the_end_of_a_round_claims_no_more_than_can_be(config, claim, message):
    good = {"round": 1, "num_steps": 3, "num_tokens": 100, "num_labels": 50, "loss_sum": 9.0}
    task = Task(1, 1, next_step=3)
    check_round_end(RoundEnd(**good), task, 9, config)
    with pytest.raises(RemoteProtocolError, match=message):
        check_round_end(RoundEnd(**good | claim), task, 9, config)


def test_a_split_round_has_a_step():
    with pytest.raises(RemoteProtocolError, match="a round without a step"):
        check_round_end(RoundEnd(round=1), Task(1, 1), 9, SPLIT)


def test_an_evaluation_is_claimed_only_if_the_server_has_no_labels():
    check_evaluation_end(EvaluationEnd(), 5, SPLIT)
    with pytest.raises(RemoteProtocolError, match="0 labelled tokens; 1 to 1280 are possible"):
        check_evaluation_end(EvaluationEnd(), 5, WHOLE)


@pytest.mark.parametrize("claim", [{"num_samples": 4_000_000_000}, {"num_held_out": 4_000_000_000}])
def test_more_samples_than_a_client_may_have_are_refused(claim):
    check_hello(Hello(num_samples=1_000_000, num_held_out=1), SPLIT)
    with pytest.raises(RemoteProtocolError, match="max_samples_per_client = 1000000"):
        check_hello(Hello(**claim), SPLIT)


def test_far_more_samples_than_the_others_have_are_said(caplog):
    warn_of_sizes({"a": 100, "b": 900, "mallory": 100_000})
    assert [record.args[0] for record in caplog.records] == ["mallory"]


def test_claimed_held_out_labels_weigh_no_more_than_their_cap():
    honest = {"a": StepResult(None, 30.0, 10, 1), "b": StepResult(None, 40.0, 10, 2)}
    assert bounded_losses(honest, 10.0) == list(honest.values())
    found = bounded_losses(honest | {"mallory": StepResult(None, 0.0, 4_000_000_000, 0)}, 10.0)
    assert [each.num_labels for each in found] == [10, 10, 100]
    assert sum(each.loss_sum for each in found) == 70.0
