"""What the end of training tells of it: adapters that have not moved, a loss that has not fallen. Knows no party."""

import logging
from collections.abc import Iterator, Mapping

from torch import Tensor

from splitcom.config import Config

Tensors = Mapping[str, Tensor]
Rows = Mapping[int, Mapping[str, int]]  # held-out samples, by round and client
_LOG = logging.getLogger(__name__)


def effective(adapter: Tensors) -> dict[str, Tensor]:
    """A copy of what changes the model by itself: not LoRA's A, of which nothing comes as long as B is 0."""
    return {name: tensor.detach().cpu().clone() for name, tensor in adapter.items() if ".lora_A." not in name}


def comparable(losses: Mapping[int, float], rows: Rows) -> dict[int, float]:
    """The losses, by round, that are over the same held-out rows as the last one.

    >>> comparable({0: 3.9, 1: 3.8, 2: 3.5}, {0: {"a": 4, "b": 4}, 1: {"a": 4}, 2: {"a": 4}})
    {1: 3.8, 2: 3.5}
    """
    last = rows[max(losses)]
    return {index: loss for index, loss in losses.items() if rows[index] == last}


def findings(
    before: Tensors,
    after: Tensors,
    losses: Mapping[int, float],
    config: Config,
    rows: Rows | None = None,
    kept_round: int | None = None,
) -> list[str]:
    """Warnings of a run that has trained; they are logged, too.

    Args:
        before: what was `effective` before training.
        after: the same, now.
        losses: held-out, in nats, by round; round 0 is before training.
        rows: how many of each client's samples each loss is over; None if all are over the same.
        config: of the run.
        kept_round: after which the adapter was what is left.
    """
    found = [*_findings(before, after, losses, config, rows or {index: {} for index in losses})]
    if kept_round == 0:
        found.append(
            "training.keep = 'best': no evaluation found a lower held-out loss than before training, so the adapter "
            "that is left is as it began; lower training.lr"
        )
    for warning in found:
        _LOG.warning("%s", warning)
    return found


def _findings(
    before: Tensors,
    after: Tensors,
    losses: Mapping[int, float],
    config: Config,
    rows: Rows,
) -> Iterator[str]:
    training, initial, last = config.training, losses[0], losses[max(losses)]
    alike = comparable(losses, rows)
    if others := [str(index) for index in sorted(losses.keys() - alike.keys())]:
        yield (
            f"evaluation: clients have come or gone, and the held-out losses of rounds {', '.join(others)} are over "
            f"other rows than the last one, which is over {sum(rows[max(losses)].values())} of "
            f"{', '.join(sorted(rows[max(losses)]))}: they cannot be compared with it"
        )
    if config.client.own_b:
        yield (
            "client.own_b = true: the adapter that is left has the shared A and no B; each client's B, with which the "
            "losses were measured, is in its own checkpoint"
        )
    if (
        before
        and not config.client.own_b
        and all(tensor.equal(after[name]) for name, tensor in before.items())
    ):
        yield (
            "training: the adapters have not moved, and the model is what it was; "
            f"training.lr = {training.lr:g} may be too low, so that nothing of a step is left after "
            f"flows.adapter_up.codec = {config.flows.codec('adapter_up')!r}, or training.clip_norm = "
            f"{training.clip_norm}, or gradients are too small for model.dtype = {config.model.dtype!r}"
        )
    elif 0 not in alike:
        return
    elif last > initial:
        yield (
            f"training: the held-out loss has risen by {last - initial:.3g} nats, to {last:.4g} (lowest: "
            f"{min(alike.values()):.4g}); lower training.lr, set training.clip_norm, or train fewer rounds"
        )
    elif last == initial:
        yield (
            f"training: the held-out loss is exactly what it was before, {last:.4g}; raise training.lr, which is "
            f"{training.lr:g}"
        )
