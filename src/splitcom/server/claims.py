"""What clients claim of themselves, compared with what is possible: steps, rounds, counts, losses.

A claim that cannot be raises RemoteProtocolError with the reason. What can be checked is form, not intent: see
docs/deploy.md for what clients must be trusted with.
"""

import logging
from collections.abc import Mapping
from math import isfinite
from statistics import median

from splitcom.config import Config
from splitcom.engines.engine import StepResult
from splitcom.errors import RemoteProtocolError
from splitcom.protocol.messages_pb2 import EvaluationEnd, Hello, ReferenceLost, RoundEnd
from splitcom.server.state import ClientState, Task
from splitcom.training.plan import num_round_batches

_LOG = logging.getLogger(__name__)
_FAR_MORE = 20


def check_hello(hello: Hello, config: Config) -> None:
    """It claims no more samples than a client may have: others wait until it has trained on them."""
    most = config.federation.max_samples_per_client
    for what, number in (("samples", hello.num_samples), ("held-out samples", hello.num_held_out)):
        if number > most:
            raise RemoteProtocolError(f"{number} {what}; federation.max_samples_per_client = {most}")


def warn_of_sizes(num_samples: Mapping[str, int]) -> None:
    """Say which clients claim far more samples than the others, who will wait for them."""
    for name, number in num_samples.items():
        others = [other for peer, other in num_samples.items() if peer != name]
        if others and number > _FAR_MORE * median(others):
            _LOG.warning(
                "%s says it has %d samples, the others %g in the median: rounds may wait for it",
                name, number, median(others),
            )  # fmt: skip


def check_step(step: int, task: Task | None, num_samples: int, config: Config) -> None:
    """A client's steps follow one another, and end with its samples."""
    done = _done(task)
    possible = num_round_batches(num_samples, config, 1 if task is None else task.round)
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
    _check_count("steps", end.num_steps, num_round_batches(num_samples, config, task.round))
    max_tokens = num_samples * config.data.max_tokens * config.training.local_epochs
    _check_count("tokens trained on", end.num_tokens, max_tokens)
    _check_count("labelled tokens", end.num_labels, end.num_tokens)
    _check_finite(end.loss_sum)


def check_evaluation_end(end: EvaluationEnd, num_held_out: int, config: Config) -> None:
    """It claims a loss that can be; if the server has the labels, it has computed it itself."""
    if not config.training.split or config.model.tail_blocks:
        most = num_held_out * (1 if config.data.classes is not None else config.data.max_tokens)
        _check_count("labelled tokens", end.num_labels, most)
        _check_finite(end.loss_sum)


def bounded_losses(claimed: Mapping[str, StepResult], max_weight: float | None) -> list[StepResult]:
    """What clients claim of their held-out samples; none weighs more than `max_weight` times the others' median."""
    bounded = []
    for name, own in claimed.items():
        others = [other.num_labels for peer, other in claimed.items() if peer != name]
        most = (
            max(int(max_weight * median(others)), 1) if others and max_weight is not None else own.num_labels
        )
        if own.num_labels > most:
            _LOG.warning(
                "%s: it claims %d held-out labels, far more than the others; its loss weighs as of %d",
                name, own.num_labels, most,
            )  # fmt: skip
            part = most / own.num_labels
            own = StepResult(None, own.loss_sum * part, most, int(own.num_correct * part))
        bounded.append(own)
    return bounded


def _check_finite(loss_sum: float) -> None:
    if not (isfinite(loss_sum) and loss_sum >= 0):
        raise RemoteProtocolError(f"a loss of {loss_sum}")


def _check_count(what: str, number: int, possible: int) -> None:
    if not 0 < number <= possible:
        raise RemoteProtocolError(f"{number} {what}; 1 to {possible} are possible")


def _done(task: Task | None) -> int:
    return 0 if task is None else task.next_step
