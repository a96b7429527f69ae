"""A client's part in a sum under masks, one round's at a time; it knows the messages and no trainer."""

from collections.abc import Iterable, Mapping

import torch

from splitcom.aggregation import parse
from splitcom.config import Config
from splitcom.errors import RemoteProtocolError
from splitcom.privacy.masks import Keys, Member, check_masks, to_units
from splitcom.protocol.messages_pb2 import MaskKeys, MaskOpened, MaskPeers, MaskShare, MaskShares, Message


class Masking:
    """Answers the three messages of secure aggregation, and masks what a round has changed.

    All that it draws is of one round, and never saved: a round that is repeated has new masks. Raises
    RemoteProtocolError if the server asks for what would open more than the sum.
    """

    def __init__(self, config: Config) -> None:
        self._part = config.federation.secure_aggregation
        self._weighs = parse(config.federation.aggregator).weighs
        self._member: Member | None = None
        self._num_members = 0
        if self._part is not None:
            check_masks()

    @property
    def is_on(self) -> bool:
        """Whether this run's adapters go up under masks."""
        return self._part is not None

    def start(self) -> Message:
        """New keys."""
        if self._part is None:
            raise RemoteProtocolError("keys for masks, in a run without federation.secure_aggregation")
        self._member = Member(self._part)
        return Message(mask_keys=MaskKeys(keys=self._member.keys._asdict()))

    def share(self, peers: MaskPeers) -> Message:
        """Shares of both secrets for the others."""
        keys = {index: Keys(keys.sealing, keys.masking) for index, keys in enumerate(peers.keys, 1)}
        self._num_members = len(keys)
        return Message(mask_shares=MaskShares(shares=_messages(self._begun.shares(peers.own, keys))))

    def masked(
        self,
        adapter: Mapping[str, torch.Tensor],
        base: Mapping[str, torch.Tensor],
        weight: int,
        shares: Iterable[MaskShare],
    ) -> bytes:
        """What a round has changed, times its weight, all tensors by name; in units, under masks."""
        changes = [(adapter[name].double() - base[name].double()).flatten().cpu() for name in sorted(adapter)]
        numbers = torch.cat(changes).numpy() * (weight if self._weighs else 1)
        return self._begun.masked(
            to_units(numbers, self._num_members), {one.member: one.share for one in shares}
        )

    def open(self, arrived: Iterable[int]) -> Message:
        """Shares with which the masks come off the sum of those that have arrived."""
        opened = self._begun.opened(set(arrived))
        self._member = None
        return Message(mask_opened=MaskOpened(shares=_messages(opened)))

    @property
    def _begun(self) -> Member:
        if self._member is None:
            raise RemoteProtocolError("masks of a sum that has not begun")
        return self._member


def _messages(shares: Mapping[int, bytes]) -> list[MaskShare]:
    return [MaskShare(member=member, share=share) for member, share in shares.items()]
