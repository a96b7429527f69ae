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


def check_from_round(folder: RunFolder, from_round: int | None, *, resume: bool) -> None:
    """Raise RunError if a run is to go back that does not go on at all, or to a round that there is no state of."""
    if from_round is None:
        return
    if not resume:
        raise RunError(f"--from-round {from_round}: only a run that is there can go back; add --resume")
    if from_round not in (kept := PartyStore(folder.checkpoints / "server").rounds()):
        there = ", ".join(map(str, kept)) or "none"
        raise RunError(
            f"--from-round {from_round}: {folder.path} has no state of that round, but of {there}; choose one of "
            "these (training.keep_checkpoints says how many are kept, and training.checkpoint_every how often)"
        )


def go_back(folder: RunFolder, round_index: int) -> None:
    """Have this round, which there is a state of, be the run's last, also if the run has ended."""
    folder.forget_result()
    PartyStore(folder.checkpoints / "server").go_back_to(round_index)
    _LOG.warning("%s: back to round %d; what has been trained since is lost", folder.path, round_index)
