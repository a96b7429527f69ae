"""What clients claim or cause, compared with what is possible: counts, losses, numbers that are not finite.

A claim that cannot be raises RemoteProtocolError with the reason; who spoils a step is found, and refused. What can be
checked is form, not intent: see docs/deploy.md for what clients must be trusted with.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from math import isfinite

from splitcom.config import Config
from splitcom.errors import RemoteProtocolError
from splitcom.protocol.messages_pb2 import EvaluationEnd, RoundEnd
from splitcom.server.conversations import Conversations, Ended, Peer, Task
from splitcom.training.plan import num_round_batches


def check_step(step: int, peer: Peer, config: Config) -> None:
    """A client's steps follow one another, and end with its samples."""
    done, possible = _done(peer), num_round_batches(peer.num_samples, config)
    if step != done or step >= possible:
        raise RemoteProtocolError(f"step {step} of a round of {possible}, after {done}")


def check_lost_gradient(step: int, peer: Peer) -> None:
    """It is the last one that has been sent in this round."""
    done = _done(peer)
    if peer.gradient is None or step != done - 1:
        raise RemoteProtocolError(f"the gradient of step {step} is lost, after {done} steps of this round")


def check_round_end(end: RoundEnd, peer: Peer, task: Task, config: Config) -> None:
    """It ends the client's round, and claims no more than can be; what the server has counted itself is not claimed."""
    if end.round != task.round:
        raise RemoteProtocolError(f"the end of round {end.round}; it is in round {task.round}")
    if config.training.split:
        if not task.next_step:
            raise RemoteProtocolError("the end of a round without a step")
        _check_finite(end.loss_sum)
        return
    _check_count("steps", end.num_steps, num_round_batches(peer.num_samples, config))
    max_tokens = peer.num_samples * config.data.max_tokens * config.training.local_epochs
    _check_count("tokens trained on", end.num_tokens, max_tokens)
    _check_count("labelled tokens", end.num_labels, end.num_tokens)
    _check_finite(end.loss_sum)


def check_evaluation_end(end: EvaluationEnd, peer: Peer, config: Config) -> None:
    """It claims a loss that can be; where the server has the labels, it has computed it itself."""
    if not config.training.split or config.model.tail_blocks:
        _check_count("labelled tokens", end.num_labels, peer.num_held_out * config.data.max_tokens)
        _check_finite(end.loss_sum)


def without_spoilers(
    names: Iterable[str], is_sound: Callable[[str], bool], clients: Conversations
) -> list[str]:
    """The clients of a step that cannot be taken, without those that are refused since theirs is not sound.

    To be called where NonFiniteError is handled, which is raised again where that is nobody, or everybody: then it is
    the training that has diverged.
    """
    names = list(names)
    spoilers = [name for name in names if not is_sound(name)]
    if not spoilers or set(spoilers) == set(clients.present):
        raise
    for name in spoilers:
        with suppress(Ended):
            clients.refuse(name, "a batch whose loss or gradients are not finite")
    return [name for name in names if name not in spoilers]


def _check_finite(loss_sum: float) -> None:
    if not (isfinite(loss_sum) and loss_sum >= 0):
        raise RemoteProtocolError(f"a loss of {loss_sum}")


def _check_count(what: str, number: int, possible: int) -> None:
    if not 0 < number <= possible:
        raise RemoteProtocolError(f"{number} {what}; 1 to {possible} are possible")


def _done(peer: Peer) -> int:
    return 0 if peer.task is None else peer.task.next_step
