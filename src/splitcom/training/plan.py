"""Which batches a client runs, and how far into the run each of them is."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import ceil
from operator import add

import numpy as np

from splitcom.config import Config
from splitcom.data import Batches, Sample, batches, taken
from splitcom.seeds import derive_seed

_ROUNDING = 1e-9  # 0.29 * 100 is a little below 29, 0.07 * 100 a little above 7


@dataclass(frozen=True)
class LocalRound:
    """A round as one client trains it: `index` names its batches and draws, `place` is where in the run it begins.

    Places count in rounds from 1; with asynchronous scheduling a round may begin between two.
    """

    index: int
    place: float
    first_step: int = 0  # of a round that was paused, or of a chunk
    is_frozen: bool = False  # by a controller: the front, and in the U-shape the body
    chunk_steps: int | None = None  # None: to the end of the round


def round_batches(samples: Sequence[Sample], config: Config, client: str, round_index: int) -> Batches:
    """A client's batches of one round, shuffled anew in each of its local epochs, as many as `num_round_batches`."""
    epochs = range(config.training.local_epochs)
    found = reduce(add, (_epoch_batches(samples, config, client, round_index, epoch) for epoch in epochs))
    return found[: _most_batches(len(found), config, round_index)]


def chunk_batches(
    samples: Sequence[Sample], config: Config, client: str, round_index: int, steps: range
) -> Batches:
    """A client's batches of some steps of a round that goes on through its data, epoch by epoch, until it is ended."""
    each = -(-len(samples) // config.training.batch_size)
    first = steps.start // each
    epochs = range(first, -(-steps.stop // each))
    found = reduce(add, (_epoch_batches(samples, config, client, round_index, epoch) for epoch in epochs))
    return found[steps.start - first * each : steps.stop - first * each]


def _epoch_batches(
    samples: Sequence[Sample], config: Config, client: str, round_index: int, epoch: int
) -> Batches:
    """All of a client's samples once, in the order of a local epoch."""
    return batches(
        samples,
        config.training.batch_size,
        seed=derive_seed(config.seed, client, "order", round_index, epoch),
        by_length=config.training.accumulate > 1,
    )


def num_round_batches(num_samples: int, config: Config, round_index: int) -> int:
    """How many batches a client with so many samples trains on in a round, from 1: all, or its part of the most steps.

    >>> config = Config().override({"training.rounds": 3, "training.max_steps": 7, "training.batch_size": 4})
    >>> [num_round_batches(40, config, index) for index in (1, 2, 3)]
    [2, 2, 3]
    """
    training = config.training
    batches_there = -(-num_kept(num_samples, config) // training.batch_size) * training.local_epochs
    return _most_batches(batches_there, config, round_index)


def num_kept(num_samples: int, config: Config) -> int:
    """On how many of its samples a client trains in a round: its part of them, rounded up.

    >>> num_kept(25, Config().override({"client.keep": 0.3})), num_kept(6, Config().override({"client.keep": 1e-12}))
    (8, 1)
    """
    return max(min(num_samples, 1), ceil(num_samples * (config.client.keep or 1.0) - _ROUNDING))


def _most_batches(batches_there: int, config: Config, round_index: int) -> int:
    training = config.training
    if training.max_steps is None:
        return batches_there
    before, after = (
        index * training.max_steps // training.rounds for index in (round_index - 1, round_index)
    )
    return min(batches_there, after - before)


def max_chunks_of(config: Config) -> int:
    """How many chunks a round may have, of `training.local_epochs` each."""
    given = config.federation.variance.max_chunks
    return 2 * config.training.local_epochs + 8 if given is None else given


def evaluated(samples: Sequence[Sample], config: Config, most: int = 0) -> Sequence[Sample]:
    """The held-out samples in their own order; if `most` is not 0, of these as many at most, drawn at random.

    With a larger number the same ones are among them.
    """
    if not 0 < most < len(samples):
        return samples
    drawn = random.Random(derive_seed(config.seed, "held_out")).sample(range(len(samples)), len(samples))
    return taken(samples, np.array(sorted(drawn[:most])))


def held_out_batches(samples: Sequence[Sample], config: Config, most: int = 0) -> Batches:
    """The batches of the samples that are `evaluated`."""
    return batches(evaluated(samples, config, most), config.evaluation.batch_size, seed=None)


def progress_of(config: Config, place: float, step: int, num_steps: int) -> float:
    """How much of the run lies behind the middle of a step, in (0, 1); places count in rounds from 1, steps from 0.

    The middle stands for the step, so that neither the first nor the last one is taken at a rate of 0. A round that
    began late in an asynchronous run, which may end without it, goes no further than a run's last step.
    """
    middle = place - 1 + (step + 0.5) / num_steps
    return min(middle, config.training.rounds - 0.5 / num_steps) / config.training.rounds
