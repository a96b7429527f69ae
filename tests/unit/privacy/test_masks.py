"""Sums under masks: exact, with members that drop out at every stage; and what a member does not do."""

import numpy as np
import pytest

from splitcom.errors import NonFiniteError, RemoteProtocolError
from splitcom.privacy.masks import (
    SCALE,
    Keys,
    Member,
    Numbers,
    packed,
    threshold_of,
    to_units,
    unmasked,
    unpacked,
)

pytest.importorskip("Crypto")
PART, COUNT = 0.6, 5  # a threshold of 3
VALUES = {index: np.linspace(-index, index, 7) for index in range(1, COUNT + 1)}


class Round:
    """All members up to their sums; those in `silent` have never shared, those in `gone` do not send their sums."""

    def __init__(self, silent=(), gone=()):
        self.members = {index: Member(PART) for index in VALUES}
        self.peers = {index: member.keys for index, member in self.members.items()}
        sealed = {
            index: member.shares(index, self.peers)
            for index, member in self.members.items()
            if index not in silent
        }
        self.sharing = set(sealed)
        self.sealed_for = {
            index: {sender: shares[index] for sender, shares in sealed.items() if sender != index}
            for index in sealed
        }
        self.sums = {
            index: self.members[index].masked(to_units(VALUES[index], COUNT), self.sealed_for[index])
            for index in sealed
            if index not in gone
        }

    def total(self, mute=()):
        opened = {
            index: self.members[index].opened(set(self.sums)) for index in self.sums if index not in mute
        }
        found = unmasked(self.sums, self.peers, self.sharing, opened, threshold_of(PART, COUNT))
        return found.view(np.int64) / SCALE


@pytest.mark.parametrize(
    ("silent", "gone", "mute"),
    [
        ((), (), ()),
        ((1,), (), ()),
        ((), (2, 5), ()),
        ((), (), (3, 4)),
        ((4,), (1,), ()),
        ((2,), (), (5,)),
    ],
)
def test_the_sum_is_exact_whoever_drops_out_and_when(silent, gone, mute):
    round_ = Round(silent, gone)

    total = round_.total(mute)

    left = [VALUES[index] for index in VALUES if index not in (*silent, *gone)]
    np.testing.assert_allclose(total, sum(left), rtol=0, atol=COUNT / 2 / SCALE)
    assert (total == sum(to_units(values, COUNT).view(np.int64) for values in left) / SCALE).all()


def test_what_one_member_sends_looks_like_chance_and_is_never_the_same():
    one, other = Round().sums[1], Round().sums[1]
    numbers = unpacked(one + other).astype(float) / 2**48

    assert one != other and 0.2 < numbers.mean() < 0.8


def test_too_few_open_nothing():
    round_ = Round(gone=(1, 2))
    with pytest.raises(RemoteProtocolError, match="2 members opened"):
        round_.total(mute=(3,))
    with pytest.raises(RemoteProtocolError, match="threshold is 3"):
        Round(gone=(1, 2, 3)).total()
    with pytest.raises(RemoteProtocolError, match="shares of 1 others"):
        Round(silent=(1, 2, 3))


def test_a_member_opens_a_sum_once_and_never_both_masks_of_another():
    round_ = Round()
    first = round_.members[1].opened({1, 2, 3})
    with pytest.raises(RemoteProtocolError, match="second time"):
        round_.members[1].opened({1, 2, 3, 4, 5})
    assert first.keys() == {1, 2, 3, 4, 5} and len(set(first.values())) == 5


def test_keys_that_are_not_all_different_or_another_s_are_refused():
    members = {index: Member(PART) for index in (1, 2, 3)}
    peers = {index: member.keys for index, member in members.items()}
    with pytest.raises(RemoteProtocolError, match="not all different"):
        members[1].shares(1, peers | {3: peers[2]})
    with pytest.raises(RemoteProtocolError, match="is none"):
        members[1].shares(1, peers | {3: Keys(bytes(32), bytes(31) + b"1")})
    with pytest.raises(RemoteProtocolError, match="other keys"):
        members[1].shares(2, peers)


def test_a_share_that_was_changed_on_its_way_is_noticed():
    round_ = Round()
    round_.members[1]._sealed[2] = round_.members[1]._sealed[2][:-1] + b"x"
    with pytest.raises(RemoteProtocolError, match="member 2 are not"):
        round_.members[1].opened({1, 2, 3})


def test_numbers_beyond_what_a_sum_holds_are_refused():
    with pytest.raises(NonFiniteError):
        to_units(np.array([1e7]), 3)
    with pytest.raises(NonFiniteError):
        to_units(np.array([np.nan]), 3)
    numbers: Numbers = to_units(np.array([-2.5, 0.0, 1.0]), 3)
    assert (unpacked(packed(numbers)) == numbers & np.uint64((1 << 48) - 1)).all()
