"""Which batches a client runs, and how far into the run each of them is."""

from collections.abc import Sequence

from splitcom.config import Config
from splitcom.data import Batch, Sample, batches
from splitcom.seeds import derive_seed


def round_batches(samples: Sequence[Sample], config: Config, client: str, round_index: int) -> list[Batch]:
    """A client's batches of one round, shuffled anew in each of its local epochs."""
    return [
        batch
        for epoch in range(config.training.local_epochs)
        for batch in batches(
            samples,
            config.training.batch_size,
            seed=derive_seed(config.seed, client, "order", round_index, epoch),
        )
    ]


def num_round_batches(num_samples: int, config: Config) -> int:
    """How many batches `round_batches` gives."""
    return -(-num_samples // config.training.batch_size) * config.training.local_epochs


def held_out_batches(samples: Sequence[Sample], config: Config) -> list[Batch]:
    """The held-out samples in their own order."""
    return batches(samples, config.evaluation.batch_size, seed=None)


def progress_of(config: Config, round_index: int, step: int, num_steps: int) -> float:
    """How much of the run lies behind a step, in [0, 1); rounds count from 1, steps from 0."""
    return (round_index - 1 + step / num_steps) / config.training.rounds
