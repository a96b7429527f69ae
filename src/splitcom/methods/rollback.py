"""A run that goes on from an earlier round than its last one, as after a client has poisoned it.

What that round has left is where all parties go on from; what has been trained since is lost, and its bytes are counted
as repeated. Clients need not be told: each is asked for its own state of that round, and begins anew if it has none.
"""

import logging

from splitcom.errors import RunError
from splitcom.metrics.record import RunFolder
from splitcom.training.store import PartyStore

_LOG = logging.getLogger(__name__)

DEFENCES = (
    "federation.aggregator",
    "federation.max_update_ratio",
    "federation.max_weight_ratio",
    "federation.max_gradient_ratio",
)
"""Settings that may be changed when a run goes back: what would have held off what it goes back behind."""


def check_from_round(from_round: int | None, *, resume: bool) -> None:
    """Raise RunError if a run is to go back that does not go on at all."""
    if from_round is not None and not resume:
        raise RunError(f"--from-round {from_round}: only a run that is there can go back; add --resume")


def go_back(folder: RunFolder, round_index: int) -> None:
    """Have this round be the run's last, also if the run has ended; raises RunError if there is no state of it."""
    store = PartyStore(folder.checkpoints / "server")
    if round_index not in (kept := store.rounds()):
        there = ", ".join(map(str, kept)) or "none"
        raise RunError(
            f"--from-round {round_index}: {folder.path} has no state of that round, but of {there}; choose one of "
            "these (training.keep_checkpoints says how many are kept, and training.checkpoint_every how often)"
        )
    folder.forget_result()
    store.go_back_to(round_index)
    _LOG.warning("%s: back to round %d; what has been trained since is lost", folder.path, round_index)
