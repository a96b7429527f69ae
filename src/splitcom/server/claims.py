"""What clients claim of themselves, compared with what is possible: steps, rounds, counts, losses.

A claim that cannot be raises RemoteProtocolError with the reason. What can be checked is form, not intent: see
docs/deploy.md for what clients must be trusted with.
"""

from math import isfinite

from splitcom.config import Config
from splitcom.errors import RemoteProtocolError
from splitcom.protocol.messages_pb2 import EvaluationEnd, ReferenceLost, RoundEnd
from splitcom.server.state import ClientState, Task
from splitcom.training.plan import num_round_batches


def check_step(step: int, task: Task | None, num_samples: int, config: Config) -> None:
    """A client's steps follow one another, and end with its samples."""
    done, possible = _done(task), num_round_batches(num_samples, config)
    if step != done or step >= possible:
        raise RemoteProtocolError(f"step {step} of a round of {possible}, after {done}")


def check_lost_gradient(lost: ReferenceLost, state: ClientState) -> None:
    """It is the last one that has been sent in this round."""
    done = _done(state.task)
    if state.gradient is None or lost.step != done - 1:
        raise RemoteProtocolError(
            f"the gradient of step {lost.step} is lost, after {done} steps of this round"
        )


def check_round_end(end: RoundEnd, task: Task, num_samples: int, config: Config) -> None:
    """It ends the client's round, and claims no more than can be; what the server has counted itself is not claimed."""
    if end.round != task.round:
        raise RemoteProtocolError(f"the end of round {end.round}; it is in round {task.round}")
    if config.training.split:
        if not task.next_step:
            raise RemoteProtocolError("the end of a round without a step")
        _check_finite(end.loss_sum)
        return
    _check_count("steps", end.num_steps, num_round_batches(num_samples, config))
    max_tokens = num_samples * config.data.max_tokens * config.training.local_epochs
    _check_count("tokens trained on", end.num_tokens, max_tokens)
    _check_count("labelled tokens", end.num_labels, end.num_tokens)
    _check_finite(end.loss_sum)


def check_evaluation_end(end: EvaluationEnd, num_held_out: int, config: Config) -> None:
    """It claims a loss that can be; if the server has the labels, it has computed it itself."""
    if not config.training.split or config.model.tail_blocks:
        _check_count("labelled tokens", end.num_labels, num_held_out * config.data.max_tokens)
        _check_finite(end.loss_sum)


def _check_finite(loss_sum: float) -> None:
    if not (isfinite(loss_sum) and loss_sum >= 0):
        raise RemoteProtocolError(f"a loss of {loss_sum}")


def _check_count(what: str, number: int, possible: int) -> None:
    if not 0 < number <= possible:
        raise RemoteProtocolError(f"{number} {what}; 1 to {possible} are possible")


def _done(task: Task | None) -> int:
    return 0 if task is None else task.next_step
