"""The server's part in a sum under masks: it hands on keys and shares, and sees the sum alone.

    mask_start ─► mask_keys ─► mask_peers ─► mask_shares ─► round_start … round_end ─► mask_open ─► mask_opened ─► sum

Clients that are lost on the way are missing from what follows, as `privacy/masks.py` says. If fewer are left than the
threshold, the round is done again.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from splitcom.aggregation import Update
from splitcom.aggregation import parse as parse_aggregator
from splitcom.amount import counted
from splitcom.errors import RemoteProtocolError
from splitcom.privacy.masks import (
    SCALE,
    SEALED_BYTES,
    Keys,
    threshold_of,
    unmasked,
)
from splitcom.protocol.messages_pb2 import MaskOpen, MaskPeers, MaskShare, MaskStart, MemberKeys, Message
from splitcom.server.conversations import Rejoined
from splitcom.server.part import ServerPart, ServerRun
from splitcom.server.shared import MASKED


class MaskedSum(ServerPart):
    """One round's sum at a time."""

    def __init__(self, run: ServerRun, part: float) -> None:
        super().__init__(run)
        self._part = part
        self._weighs = parse_aggregator(run.config.federation.aggregator).weighs
        self._numbers: dict[str, int] = {}  # of members, by client
        self._keys: dict[int, Keys] = {}
        self._sharing: list[int] = []

    def begin(self, names: Sequence[str], round_index: int) -> dict[str, list[MaskShare]]:
        """Have these clients share their secrets; those that have, with what the others have sealed for each.

        Raises Rejoined if too few have.
        """
        for name in names:
            self._clients.send(name, Message(mask_start=MaskStart(round=round_index)))
        keys: dict[str, Keys] = {}
        for name, message in self._clients.each(self._clients.collect(names)):
            with self._clients.refusing(name):
                keys[name] = keys_of(message)
        members = [name for name, _ in self._clients.each(keys)]
        self._numbers = {name: number for number, name in enumerate(members, 1)}
        self._keys = {self._numbers[name]: keys[name] for name in members}
        self._check(len(members), "made keys")
        listed = [MemberKeys(**own._asdict()) for own in self._keys.values()]
        for name, number in self._numbers.items():
            self._clients.send(name, Message(mask_peers=MaskPeers(keys=listed, own=number)))
        sealed: dict[str, dict[int, bytes]] = {}
        for name, message in self._clients.each(self._clients.collect(members)):
            with self._clients.refusing(name):
                others = [number for number in self._keys if number != self._numbers[name]]
                sealed[name] = shares_of(message, "mask_shares", others, SEALED_BYTES)
        sharing = [name for name, _ in self._clients.each(sealed)]
        self._sharing = [self._numbers[name] for name in sharing]
        self._check(len(sharing), "shared their secrets")
        return {
            name: [
                MaskShare(member=self._numbers[other], share=sealed[other][self._numbers[name]])
                for other in sharing
                if other != name
            ]
            for name in sharing
        }

    def end(self, updates: Mapping[str, Update]) -> Update:
        """The mean of masked updates, as one of all of them. Raises Rejoined if too few are left."""
        self._check(len(updates), "sent their updates")
        arrived = [self._numbers[name] for name in updates]
        there = [name for name in updates if name in self._clients.ready]
        for name in there:
            self._clients.send(name, Message(mask_open=MaskOpen(arrived=arrived)))
        opened: dict[int, dict[int, bytes]] = {}
        for name, message in self._clients.each(self._clients.collect(there)):
            with self._clients.refusing(name):
                opened[self._numbers[name]] = shares_of(message, "mask_opened", self._sharing, 16)
        self._check(len(opened), "opened the sum")
        sums = {
            self._numbers[name]: update.adapter[MASKED].numpy().tobytes() for name, update in updates.items()
        }
        try:
            total = unmasked(sums, self._keys, self._sharing, opened, self._threshold)
        except RemoteProtocolError as error:  # nobody knows whose shares are wrong
            raise Rejoined(f"the masks do not come off: {error}") from error
        weight = sum(update.num_labels if self._weighs else 1 for update in updates.values())
        mean = torch.from_numpy(total.view(np.int64).astype(np.float64) / SCALE / weight)
        first = next(iter(updates.values()))
        labels = sum(update.num_labels for update in updates.values())
        return Update(self._adapter.moved(mean), labels, first.version, client="all")

    @property
    def _threshold(self) -> int:
        return threshold_of(self._part, len(self._keys))

    def _check(self, count: int, what: str) -> None:
        least = max(self._threshold, self._config.federation.min_clients, 2)
        if count < least:
            raise Rejoined(f"{counted(count, 'client')} {what}, and {least} are needed")


def keys_of(message: Message) -> Keys:
    """The public keys of a client's answer; RemoteProtocolError if there are none or they are none of the curve's."""
    own = message.mask_keys.keys
    if message.WhichOneof("kind") != "mask_keys":
        raise RemoteProtocolError("no keys, where keys for masks are due")
    keys = Keys(own.sealing, own.masking)
    keys.check()
    return keys


def shares_of(message: Message, due: str, members: Sequence[int], size: int) -> dict[int, bytes]:
    """One share of so many bytes for each of the members; RemoteProtocolError if it is another message or set."""
    kind = message.WhichOneof("kind")
    shares = {one.member: one.share for one in getattr(message, due).shares}
    if (
        kind != due
        or sorted(shares) != sorted(members)
        or {len(share) for share in shares.values()} != {size}
    ):
        raise RemoteProtocolError(
            f"'{kind}' with shares of {counted(len(shares), 'member')}; {len(members)} are due"
        )
    return shares
