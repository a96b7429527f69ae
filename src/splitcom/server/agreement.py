"""From which saved round all parties go on, if a client has lost the state it kept after the last one."""

import logging

from splitcom.server.conversations import Conversations, Rejoined
from splitcom.server.state import ClientStates
from splitcom.training.store import PartyStore

_LOG = logging.getLogger(__name__)


class Agreement:
    """Finds the last round that the server and all clients have; `warnings` tell which clients found none.

    A client has everybody go back from a round once: one that comes again and again without its state does not keep
    the run from ending.
    """

    def __init__(self, clients: Conversations, states: ClientStates, store: PartyStore, keep: int) -> None:
        self.warnings: list[str] = []
        self._clients = clients
        self._states = states
        self._store = store
        self._keep = keep
        self._settled: set[tuple[str, int]] = set()  # client and round

    def common_round(self, saved_round: int) -> int:
        """The last round from which all clients that have said hello can go on; `saved_round` if there is no other."""
        greeted = self._clients.greeted
        lost = [name for name in greeted if self._has_lost(name)]
        fresh = [name for name in lost if (name, saved_round) not in self._settled]
        self._settled |= {(name, saved_round) for name in lost}
        for index in reversed(self._older(saved_round)) if fresh else ():
            kept = self._kept_by(index)
            if all(self._can_begin(name, kept.get(name)) for name in greeted):
                _LOG.warning(
                    "%s: no whole state of round %d; everybody goes back to round %d, which all have",
                    ", ".join(fresh),
                    saved_round,
                    index,
                )
                return index
        return saved_round

    def check(self, name: str, saved_round: int) -> None:
        """Warn if a client that is to be welcomed lacks its state; Rejoined if all may yet go back to another."""
        if not self._has_lost(name):
            return
        is_settled = (name, saved_round) in self._settled
        older = self._older(saved_round)
        if not is_settled and any(self._can_begin(name, self._kept_by(index).get(name)) for index in older):
            raise Rejoined(name)
        warning = (
            f"{name}: no whole state of round {saved_round}, nor had all parties one of an earlier round: it went on "
            "with a new optimizer and no references, so the adapter is not that of an undisturbed run; see that its "
            f"disk is sound, or raise training.keep_checkpoints, which is {self._keep}"
        )
        _LOG.warning("%s", warning)
        self.warnings.append(warning)

    def _has_lost(self, name: str) -> bool:
        """Whether a client lacks the state that it has last kept."""
        return not self._can_begin(name, self._states[name].acknowledged_round)

    def _can_begin(self, name: str, kept: int | None) -> bool:
        """Whether a client can go on from the state that it kept after this round; before training none is of use."""
        return not kept or kept in self._clients.peers[name].saved_rounds

    def _older(self, saved_round: int) -> list[int]:
        return [index for index in self._store.rounds() if index < saved_round]

    def _kept_by(self, round_index: int) -> dict[str, int | None]:
        """After which round each client had last kept its state, when the server kept its own of this one."""
        _, scalars = self._store.load(round_index)
        return {name: kept for name, (kept, *_) in scalars["clients"].items()}


def forget_clients(store: PartyStore) -> None:
    """Leave of a server's last state what a longer run could begin from: nothing that is made of clients' text.

    The clients of such a run begin with new references. Raises RunError if the state cannot be read or written.
    """
    if (last := store.latest()) is None:
        return
    tensors, scalars = store.load(last)
    texts = ("labels.", "held_out_labels.")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(texts)}
    clients: dict[str, list[int | None]] = {name: [None, 0, 0] for name in scalars["clients"]}
    store.save(last, kept, {**scalars, "clients": clients})
    store.keep_last()
