"""Claims that cannot be, by kind of run."""

from pathlib import Path

import pytest
import torch

from splitcom.codecs import Decoded, Ragged
from splitcom.config import Config
from splitcom.engines.engine import StepResult
from splitcom.errors import RemoteProtocolError
from splitcom.protocol import messages_pb2
from splitcom.protocol.messages_pb2 import EvaluationEnd, Hello, ReferenceLost, RoundEnd
from splitcom.protocol.session import PROTOCOL_VERSION, TRANSITIONS, Role
from splitcom.server.claims import (
    bound_training_losses,
    bounded_losses,
    bounded_sums,
    check_batch,
    check_evaluation_end,
    check_hello,
    check_lost_gradient,
    check_round_end,
    check_step,
    check_tail_labels,
    warn_of_sizes,
)
from splitcom.server.state import ClientState, Counts, Task

DOCUMENT = Path(__file__).parents[3] / "docs" / "deploy.md"
SPLIT = Config(training={"batch_size": 4})
U_SHAPE = Config(model={"tail_blocks": 1})
CLASSES = {"task": "classification", "labels": ["no", "yes"]}
WHOLE_CLASSES = Config(method="fedlora", training={"batch_size": 4, "split": False}, data=CLASSES)
U_SHAPE_CLASSES = Config(model={"tail_blocks": 1}, data=CLASSES)
WHOLE = Config(method="fedlora", training={"batch_size": 4, "split": False})
OURS = {"protocol_version": PROTOCOL_VERSION, "client": "a", "model_fingerprint": "f"}


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
        (WHOLE, {"num_labels": 98}, "98 labelled tokens; 1 to 97"),
        (WHOLE_CLASSES, {"num_labels": 10, "num_correct": 0}, "10 labelled tokens; 1 to 9"),
        (WHOLE, {"num_correct": 51}, "51 of 50 labels told right"),
        (SPLIT, {"num_correct": 41}, "41 of 40 labels told right"),
        (WHOLE, {"loss_sum": -1.0}, "a loss of -1.0"),
        (WHOLE, {"loss_sum": float("nan")}, "a loss of nan"),
    ],
)
def test_the_end_of_a_round_claims_no_more_than_can_be(config, claim, message):
    good = {"round": 1, "num_steps": 3, "num_tokens": 100, "num_labels": 50, "loss_sum": 9.0}
    if config is WHOLE_CLASSES:
        good["num_labels"] = 9
    task = Task(1, 1, next_step=3, num_labels=40)
    check_round_end(RoundEnd(**good), task, 9, config)
    with pytest.raises(RemoteProtocolError, match=message):
        check_round_end(RoundEnd(**good | claim), task, 9, config)


def test_a_split_round_has_a_step():
    with pytest.raises(RemoteProtocolError, match="a round without a step"):
        check_round_end(RoundEnd(round=1), Task(1, 1), 9, SPLIT)


def test_an_evaluation_is_claimed_only_if_the_server_has_no_labels():
    check_evaluation_end(EvaluationEnd(), 5, 40, SPLIT)
    for config, num_tokens, most in (
        (WHOLE, None, 5 * 256 - 5),
        (WHOLE_CLASSES, None, 5),
        (U_SHAPE, 40, 35),
        (U_SHAPE_CLASSES, 40, 5),
    ):
        check_evaluation_end(EvaluationEnd(num_labels=most, num_correct=most), 5, num_tokens, config)
        for claimed in (0, most + 1):
            with pytest.raises(
                RemoteProtocolError, match=f"{claimed} labelled tokens; 1 to {most} are possible"
            ):
                check_evaluation_end(EvaluationEnd(num_labels=claimed), 5, num_tokens, config)
        with pytest.raises(RemoteProtocolError, match="2 of 1 label told right"):
            check_evaluation_end(EvaluationEnd(num_labels=1, num_correct=2), 5, num_tokens, config)
        for loss in (-1.0, float("inf")):
            with pytest.raises(RemoteProtocolError, match=f"a loss of {loss}"):
                check_evaluation_end(EvaluationEnd(num_labels=1, loss_sum=loss), 5, num_tokens, config)


def decoded(*ids):
    return Decoded(
        Ragged(torch.ones(2 * len(ids), 2), torch.tensor([2] * len(ids))), [*ids], torch.zeros(len(ids))
    )


def test_a_batch_has_no_more_samples_than_a_batch_or_a_client_has():
    check_batch(decoded(1, 2), None, 9, 2)
    check_batch(decoded(1, 2), [1, 2, 3], 3, 2)
    for batch, held, message in (
        (decoded(1, 2, 3), None, "3 samples in a batch; at most 2"),
        (decoded(8, 9), [*range(10)], "10 samples; it has said that it has 9"),
    ):
        with pytest.raises(RemoteProtocolError, match=message):
            check_batch(batch, held, 9, 2)


def test_a_gradient_weighs_by_what_can_be_learnt_of_its_batch():
    for config, most in ((U_SHAPE, 3), (U_SHAPE_CLASSES, 3)):
        check_tail_labels(most, decoded(1, 2, 3), config)
        with pytest.raises(
            RemoteProtocolError, match=f"for {most + 1} of 6 tokens; 1 to {most} are possible"
        ):
            check_tail_labels(most + 1, decoded(1, 2, 3), config)


@pytest.mark.parametrize(
    ("rounds", "message"),
    [([6], "1 saved rounds up to 6, in a run of 5"), ([1] * 7, "7 saved rounds up to 1")],
)
def test_states_of_a_client_are_of_this_run(rounds, message):
    check_hello(Hello(**OURS, saved_rounds=[4, 5]), "a", "f", SPLIT)
    with pytest.raises(RemoteProtocolError, match=message):
        check_hello(Hello(**OURS, saved_rounds=rounds), "a", "f", SPLIT)


@pytest.mark.parametrize("claim", [{"num_samples": 4_000_000_000}, {"num_held_out": 4_000_000_000}])
def test_more_samples_than_a_client_may_have_are_refused(claim):
    check_hello(Hello(**OURS, num_samples=1_000_000, num_held_out=1), "a", "f", SPLIT)
    with pytest.raises(RemoteProtocolError, match="max_samples_per_client = 1000000"):
        check_hello(Hello(**OURS, **claim), "a", "f", SPLIT)


def test_far_more_samples_than_the_others_have_are_said(caplog):
    warn_of_sizes({"a": 100, "b": 900, "mallory": 100_000})
    assert [record.args[0] for record in caplog.records] == ["mallory"]


def test_claimed_held_out_labels_weigh_no_more_than_their_cap():
    honest = {"a": StepResult(None, 30.0, 10, 1), "b": StepResult(None, 40.0, 10, 2)}
    assert bounded_losses(honest, 10.0) == list(honest.values())
    found = bounded_losses(honest | {"mallory": StepResult(None, 0.0, 4_000_000_000, 0)}, 10.0)
    assert [each.num_labels for each in found] == [10, 10, 100]
    assert sum(each.loss_sum for each in found) == 70.0


@pytest.mark.parametrize(("claim", "counts"), [(1e30, 35.0), (36.0, 35.0), (34.0, 34.0), (0.0, 0.0)])
def test_a_claimed_loss_counts_as_far_as_the_others_allow(claim, counts, caplog):
    claimed = {"a": (30.0, 10), "b": (40.0, 10), "mallory": (claim * 10, 10)}
    bounded = bounded_sums(claimed, 10.0)
    assert bounded == {"a": 30.0, "b": 40.0, "mallory": counts * 10}
    assert [record.args[0] for record in caplog.records] == (["mallory"] if counts < claim else [])
    found = bounded_losses({name: StepResult(None, *own, 0) for name, own in claimed.items()}, 10.0)
    assert [each.loss_sum for each in found] == list(bounded.values())


def test_who_claims_no_loss_does_not_make_an_honest_one_look_large():
    assert bounded_sums({"a": (90.0, 10), "mallory": (0.0, 10)}, 10.0) == {"a": 90.0, "mallory": 0.0}


@pytest.mark.parametrize(("config", "counts"), [(WHOLE, 400.0), (U_SHAPE, 400.0), (SPLIT, 9e9)])
def test_losses_of_training_are_bounded_if_they_are_claimed(config, counts):
    done = {
        name: Counts(loss_sum=loss, num_labels=10) for name, loss in (("a", 40.0), ("b", 40.0), ("c", 9e9))
    }
    bound_training_losses(done, config)
    assert [own.loss_sum for own in done.values()] == [40.0, 40.0, counts]


def test_every_number_that_a_client_can_send_has_its_bound_in_the_document():
    text = DOCUMENT.read_text(encoding="utf-8")
    kinds = {kind for table in TRANSITIONS.values() for _, role, kind in table if role is Role.CLIENT}
    messages = {one.name: one.message_type for one in messages_pb2.Message.DESCRIPTOR.fields}
    numbers = [
        f"{messages[kind].name}.{field.name}"
        for kind in sorted(kinds)
        for field in messages[kind].fields
        if field.type not in (field.TYPE_BYTES, field.TYPE_STRING, field.TYPE_MESSAGE)
    ]
    assert len(numbers) > 15 and [number for number in numbers if f"`{number}`" not in text] == []
