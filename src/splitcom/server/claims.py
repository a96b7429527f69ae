"""What clients claim of themselves, compared with what is possible: steps, rounds, counts, losses.

A claim that cannot be raises RemoteProtocolError with the reason; one that could be and is far from the others' counts
as far as they allow, with a warning. Every number of a client's messages that the server believes passes here, or is
bounded by the format that carries it: docs/deploy.md lists all of them, and what clients must be trusted with.
"""

import logging
from collections.abc import Mapping, Sized
from math import isfinite
from statistics import median

from splitcom.amount import counted
from splitcom.codecs import Decoded
from splitcom.config import Config
from splitcom.engines.engine import StepResult
from splitcom.errors import RemoteProtocolError
from splitcom.protocol.messages_pb2 import EvaluationEnd, Hello, ReferenceLost, RoundEnd
from splitcom.protocol.session import PROTOCOL_VERSION
from splitcom.server.state import ClientState, Counts, Task
from splitcom.training.plan import num_round_batches

_LOG = logging.getLogger(__name__)
_FAR_MORE = 20
_MOST_RELEASED = 1 << 48
_LEAST_NATS = 1.0  # a loss below is not far above anybody's, however small the others' are


def check_hello(hello: Hello, name: str, fingerprint: str, config: Config) -> None:
    """It speaks of this run, and claims no more samples than a client may have, for whose training others wait."""
    for what, theirs, ours in (
        ("protocol version", hello.protocol_version, PROTOCOL_VERSION),
        ("client name", hello.client, name),
        ("model fingerprint", hello.model_fingerprint, fingerprint),
    ):
        if theirs != ours:
            raise RemoteProtocolError(f"{what} is {theirs}, the server's is {ours}")
    most = config.federation.max_samples_per_client
    for what, number in (("samples", hello.num_samples), ("held-out samples", hello.num_held_out)):
        if number > most:
            raise RemoteProtocolError(f"{number} {what}; federation.max_samples_per_client = {most}")
    rounds = config.training.rounds
    if len(hello.saved_rounds) > rounds + 1 or max(hello.saved_rounds, default=0) > rounds:
        raise RemoteProtocolError(
            f"{len(hello.saved_rounds)} saved rounds up to {max(hello.saved_rounds)}, in a run of {rounds}"
        )


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
    possible = _most_steps(task, num_samples, config)
    if step != done or step >= possible:
        raise RemoteProtocolError(f"step {step} of a round of {possible}, after {done}")


def check_chunk_end(task: Task) -> None:
    """It ends a chunk, after all steps of it that the server has seen; of a model that is not split it sees none."""
    if not task.chunk_steps or task.next_step not in (0, (task.chunks + 1) * task.chunk_steps):
        raise RemoteProtocolError(
            f"the end of a chunk after {counted(task.next_step, 'step')}; chunks have {task.chunk_steps} here"
        )


def check_batch(decoded: Decoded, references: Sized | None, num_samples: int, batch_size: int) -> None:
    """It is no larger than a batch, and brings no more samples than the client has said it has.

    `references` are the server's of this flow, the batch's among them: what they take grows with the samples that come.
    """
    if len(decoded.ids) > batch_size:
        raise RemoteProtocolError(
            f"{counted(len(decoded.ids), 'sample')} in a batch; at most {batch_size} are possible"
        )
    if references is not None and len(references) > num_samples:
        raise RemoteProtocolError(
            f"{counted(len(references), 'sample')}; it has said that it has {num_samples}"
        )


def check_tail_labels(num_labels: int, sent: Decoded, config: Config) -> None:
    """By so many labels its gradient weighs: no more than can be learnt of what it has sent."""
    tokens = len(sent.batch.values)
    most = _most_labels(tokens, len(sent.ids), config)
    if not 0 < num_labels <= most:
        raise RemoteProtocolError(
            f"a gradient for {num_labels} of {counted(tokens, 'token')}; 1 to {most} are possible"
        )


def check_lost_gradient(lost: ReferenceLost, state: ClientState) -> None:
    """It is the last one that has been sent in this round."""
    done = _done(state.task)
    if state.gradient is None or lost.step != done - 1:
        raise RemoteProtocolError(
            f"the gradient of step {lost.step} is lost, after {counted(done, 'step')} of this round"
        )


def check_round_end(end: RoundEnd, task: Task, num_samples: int, config: Config) -> None:
    """It ends the client's round, and claims no more than can be; what the server has counted itself is not claimed."""
    if end.round != task.round:
        raise RemoteProtocolError(f"the end of round {end.round}; it is in round {task.round}")
    if task.chunk_steps and (task.goes_on or not task.chunks):
        raise RemoteProtocolError("the end of a round of which there is more")
    _check_released(end.num_released, end.num_updates)
    if config.training.split:
        if not task.next_step:
            raise RemoteProtocolError("the end of a round without a step")
        _check_sums(end, task.num_labels)
        return
    _check_count("steps", end.num_steps, _most_steps(task, num_samples, config))
    seen = num_samples * config.training.local_epochs
    if task.chunk_steps:
        seen = end.num_steps * config.training.batch_size
    _check_count("tokens trained on", end.num_tokens, seen * config.data.max_tokens)
    least = seen if config.data.classes is not None else end.num_steps  # samples: a batch has one or more
    _check_count("labelled tokens", end.num_labels, _most_labels(end.num_tokens, least, config))
    _check_sums(end, end.num_labels)


def check_evaluation_end(
    end: EvaluationEnd, num_held_out: int, num_tokens: int | None, config: Config
) -> None:
    """It claims a loss that can be; if the server has the labels, it has computed it itself.

    `num_tokens` are those that the server has seen of the samples; None if it sees none.
    """
    _check_released(end.num_released)
    if config.training.split and not config.model.tail_blocks:
        return
    tokens = num_held_out * config.data.max_tokens if num_tokens is None else num_tokens
    _check_count("labelled tokens", end.num_labels, _most_labels(tokens, num_held_out, config))
    _check_sums(end, end.num_labels)


def bounded_losses(claimed: Mapping[str, StepResult], max_ratio: float | None) -> list[StepResult]:
    """What clients claim of their held-out samples, as far as the others' claims allow.

    None weighs more than `max_ratio` times the others' median, nor has a larger loss per label.
    """
    if max_ratio is None:
        return list(claimed.values())
    bounded = []
    sums = bounded_sums({name: (own.loss_sum, own.num_labels) for name, own in claimed.items()}, max_ratio)
    for name, own in claimed.items():
        others = [other.num_labels for peer, other in claimed.items() if peer != name]
        most = max(int(max_ratio * median(others)), 1) if others else own.num_labels
        if own.num_labels > most:
            _LOG.warning(
                "%s: it claims %d held-out labels, far more than the others; its loss weighs as of %d",
                name, own.num_labels, most,
            )  # fmt: skip
        part = min(most / own.num_labels, 1.0)
        bounded.append(
            StepResult(None, sums[name] * part, min(own.num_labels, most), int(own.num_correct * part))
        )
    return bounded


def bound_training_losses(done: Mapping[str, Counts], config: Config) -> None:
    """Have sums of losses that clients claim of a round count as far as the others' claims allow."""
    max_ratio = config.federation.max_weight_ratio
    if max_ratio is None or (config.training.split and not config.model.tail_blocks):
        return
    claimed = {
        name: (counts.loss_sum, counts.num_labels) for name, counts in done.items() if counts.num_labels
    }
    for name, loss_sum in bounded_sums(claimed, max_ratio).items():
        done[name].loss_sum = loss_sum


def bounded_sums(claimed: Mapping[str, tuple[float, int]], max_ratio: float) -> dict[str, float]:
    """Claimed sums of losses, each over a number of labels.

    None has a mean above `max_ratio` times the others' median, or that of 1 nat if this is more.
    """
    means = {name: loss_sum / number for name, (loss_sum, number) in claimed.items()}
    bounded = {}
    for name, (loss_sum, number) in claimed.items():
        others = [other for peer, other in means.items() if peer != name]
        most = max_ratio * max(median(others), _LEAST_NATS) if others else means[name]
        if means[name] > most:
            _LOG.warning(
                "%s: it claims a loss of %.4g nats per label, far more than the others; it counts as %.4g",
                name, means[name], most,
            )  # fmt: skip
        bounded[name] = min(loss_sum, most * number)
    return bounded


def _most_labels(num_tokens: int, num_samples: int, config: Config) -> int:
    """Of these samples: the first token of each is predicted from nothing; of classes there is one a sample."""
    return num_samples if config.data.classes is not None else num_tokens - num_samples


def _most_steps(task: Task | None, num_samples: int, config: Config) -> int:
    if task is not None and task.chunk_steps:
        return task.chunk_steps * (task.chunks + task.goes_on + (not task.chunks))
    return num_round_batches(num_samples, config, 1 if task is None else task.round)


def _check_released(*numbers: int) -> None:
    if max(numbers) > _MOST_RELEASED:
        raise RemoteProtocolError(
            f"{max(numbers)} vectors or adapters that have left; at most {_MOST_RELEASED} are believed"
        )


def _check_sums(end: RoundEnd | EvaluationEnd, num_labels: int) -> None:
    if not (isfinite(end.loss_sum) and end.loss_sum >= 0):
        raise RemoteProtocolError(f"a loss of {end.loss_sum}")
    if end.num_correct > num_labels:
        raise RemoteProtocolError(f"{end.num_correct} of {counted(num_labels, 'label')} told right")


def _check_count(what: str, number: int, possible: int) -> None:
    if not 0 < number <= possible:
        raise RemoteProtocolError(f"{number} {what}; 1 to {possible} are possible")


def _done(task: Task | None) -> int:
    return 0 if task is None else task.next_step
