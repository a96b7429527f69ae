"""Sums under pairwise masks, of which nobody sees a term: Bonawitz et al. 2017 (CCS, section 4), honest but curious.

    keys    each member ─► two public keys                                        ─► all
    shares  each member ─► seeds of its two masks, in shares, sealed for each      ─► the one it is for
    sum     each member ─► y_i = x_i + own mask + sum of masks with each other     mod 2^48
    open    of each that has sent its y a share of the own mask's seed, of each that has not one of its key's seed,
            and never both ─► with `threshold` of them the masks come off the sum, and off nothing else

x_i are integers of a fixed scale, so sums are exact. Knows no message, no client and no model. Members are numbers
from 1. Primitives are `cryptography`'s (X25519, HKDF, AES-GCM, ChaCha20), shares are pycryptodome's
(extra `privacy`).
"""

import os
from collections.abc import Collection, Mapping
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from splitcom.amount import counted
from splitcom.errors import MissingExtraError, NonFiniteError, RemoteProtocolError

Numbers = npt.NDArray[np.uint64]
SCALE = float(1 << 24)
"""How many units are in 1."""
KEY_BYTES = 32
NUMBER_BYTES = 6
_SEED_BYTES = _SHARE_BYTES = 16
_NONCE_BYTES = 12
SEALED_BYTES = _NONCE_BYTES + 2 * _SHARE_BYTES + 16
_HALF = np.uint64(1 << 47)
_WHOLE = np.uint64((1 << 48) - 1)


class Keys(NamedTuple):
    """A member's public keys: shares are sealed for one, masks are agreed upon by the other."""

    sealing: bytes
    masking: bytes

    def check(self) -> None:
        """Raise RemoteProtocolError if nothing can be agreed on with these."""
        for key in self:
            try:
                X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(key))
            except ValueError as error:
                raise RemoteProtocolError(f"a key for masks that is none: {error}") from None


def check_masks() -> None:
    """Raise MissingExtraError if shares cannot be made."""
    _shamir()


def threshold_of(part: float, num_members: int) -> int:
    """How many members must be left at the end, of so many at the beginning.

    >>> threshold_of(0.6, 3), threshold_of(0.6, 10)
    (2, 6)
    """
    return ceil(part * num_members - 1e-9)


class Member:
    """One member's side of one sum; every step is taken once."""

    def __init__(self, part: float) -> None:
        """`part` of all members must be left at the end, more than half."""
        self._part = part
        self._sealing = X25519PrivateKey.generate()
        self._key_seed, self._own_seed = os.urandom(_SEED_BYTES), os.urandom(_SEED_BYTES)
        self._masking = _key_of(self._key_seed)
        self._peers: Mapping[int, Keys] = {}
        self._own = 0
        self._sealed: Mapping[int, bytes] = {}
        self._has_sent = self._has_opened = False

    @property
    def keys(self) -> Keys:
        """What the others are to know."""
        return Keys(*(key.public_key().public_bytes_raw() for key in (self._sealing, self._masking)))

    @property
    def threshold(self) -> int:
        """Of those whose keys are known."""
        return threshold_of(self._part, len(self._peers))

    def shares(self, own: int, peers: Mapping[int, Keys]) -> dict[int, bytes]:
        """Shares of both seeds, sealed for each of the others; `peers` has the keys of all members, this one's too.

        Raises RemoteProtocolError if these keys are none, or not those of different members.
        """
        if self._peers:
            raise RemoteProtocolError("keys of members a second time")
        everybody = sorted(peers)
        different = {key for keys in peers.values() for key in keys}
        if everybody != [*range(1, len(peers) + 1)] or len(different) != 2 * len(peers) or len(peers) < 2:
            raise RemoteProtocolError(f"keys of {len(peers)} members, which are not all different")
        for keys in peers.values():
            keys.check()
        if peers.get(own) != self.keys:
            raise RemoteProtocolError(f"member {own} is to be this one, but has other keys")
        self._own, self._peers = own, dict(peers)
        split = [
            dict(_shamir().split(self.threshold, len(peers), seed))
            for seed in (self._key_seed, self._own_seed)
        ]
        self._key_share, self._own_share = (shares[own] for shares in split)
        sealed = {}
        for peer in everybody:
            if peer != own:
                nonce = os.urandom(_NONCE_BYTES)
                content = b"".join(shares[peer] for shares in split)
                sealed[peer] = nonce + self._sealer(peer).encrypt(nonce, content, _between(own, peer))
        return sealed

    def masked(self, numbers: Numbers, sealed: Mapping[int, bytes]) -> bytes:
        """The numbers [N] of this member under its masks; `sealed` are the others' shares for it, by who has sent them.

        Raises RemoteProtocolError if fewer than the threshold have, or if somebody has whose key is not known.
        """
        if self._has_sent:
            raise RemoteProtocolError("a sum is asked for a second time")
        self._has_sent = True
        if self._own in sealed or not sealed.keys() <= self._peers.keys():
            raise RemoteProtocolError("shares of members whose keys are not known")
        if len(sealed) + 1 < self.threshold:
            raise RemoteProtocolError(
                f"shares of {len(sealed)} others, where the threshold is {self.threshold}"
            )
        self._sealed = dict(sealed)
        total = numbers + _expanded(self._own_seed, len(numbers))
        for peer in sorted(sealed):
            mask = _agreed(self._masking, self._peers[peer].masking, len(numbers))
            total = total + mask if self._own < peer else total - mask
        return packed(total)

    def opened(self, arrived: Collection[int]) -> dict[int, bytes]:
        """A share of each other member: of its own mask's seed if its sum has `arrived`, else of its key's.

        Raises RemoteProtocolError if too few have, or if it is asked for a second time; and if a share is not what its
        member has sealed.
        """
        members = {*self._sealed, self._own}
        if self._has_opened or not self._has_sent:
            raise RemoteProtocolError("masks are to come off a second time, or before there is a sum")
        self._has_opened = True
        if not set(arrived) <= members or self._own not in arrived or len(set(arrived)) < self.threshold:
            raise RemoteProtocolError(
                f"masks are to come off the sum of {len(set(arrived))} members of {len(members)}; the threshold is "
                f"{self.threshold}, and this one must be among them"
            )
        shares = {self._own: self._own_share}
        for peer, sealed in self._sealed.items():
            nonce, content = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            try:
                plain = self._sealer(peer).decrypt(nonce, content, _between(peer, self._own))
            except InvalidTag:
                raise RemoteProtocolError(f"shares of member {peer} are not those it has sealed") from None
            shares[peer] = plain[_SHARE_BYTES:] if peer in arrived else plain[:_SHARE_BYTES]
        return shares

    def _sealer(self, peer: int) -> AESGCM:
        secret = self._sealing.exchange(X25519PublicKey.from_public_bytes(self._peers[peer].sealing))
        return AESGCM(_derived(secret, b"shares"))


def unmasked(
    sums: Mapping[int, bytes],
    peers: Mapping[int, Keys],
    members: Collection[int],
    opened: Mapping[int, Mapping[int, bytes]],
    threshold: int,
) -> Numbers:
    """The sum of what members have sent, without masks: signed, as int64 in two's complement.

    Args:
        sums: by member, what `masked` gave; those that are missing have dropped out.
        peers: keys of all.
        members: whose shares everybody had.
        opened: by member that has answered, what `opened` gave.
        threshold: that of `Member`.

    Raises RemoteProtocolError if fewer than the threshold have answered, or if shares do not fit.
    """
    if len(opened) < threshold:
        raise RemoteProtocolError(f"{counted(len(opened), 'member')} opened the sum; {threshold} must")
    first = next(iter(sums.values()))
    total = sum((unpacked(data) for data in sums.values()), np.zeros(len(first) // NUMBER_BYTES, np.uint64))
    for member in sorted(members):
        shares = [(index, own[member]) for index, own in sorted(opened.items()) if member in own][:threshold]
        if len(shares) < threshold or any(len(share) != _SHARE_BYTES for _, share in shares):
            raise RemoteProtocolError(f"{len(shares)} shares of member {member}; {threshold} are needed")
        seed = _shamir().combine(shares)
        if member in sums:
            total = total - _expanded(seed, len(total))
            continue
        key = _key_of(seed)
        if key.public_key().public_bytes_raw() != peers[member].masking:
            raise RemoteProtocolError(f"the shares of member {member} do not give its key")
        for peer in sorted(sums):
            mask = _agreed(key, peers[peer].masking, len(total))
            total = total + mask if member < peer else total - mask
    signed = total & _WHOLE
    return np.where(signed < _HALF, signed, signed | ~_WHOLE)


def to_units(values: npt.NDArray[np.float64], num_members: int) -> Numbers:
    """Numbers [N] in units, rounded to the nearest: as many of these as `num_members` have can be added up.

    Raises NonFiniteError if one is NaN or too large.
    """
    scaled = np.rint(values * SCALE)
    if not (np.abs(scaled) < float(_HALF) / num_members).all():
        raise NonFiniteError(
            f"an update of numbers up to {np.abs(values).max():.3g} (times labels); a sum of {num_members} under masks "
            f"holds {float(_HALF) / num_members / SCALE:.3g}"
        )
    return scaled.astype(np.int64).view(np.uint64)


def packed(numbers: Numbers) -> bytes:
    """The lower 48 bits of each."""
    return numbers.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :NUMBER_BYTES].tobytes()


def unpacked(data: bytes) -> Numbers:
    """What `packed` was given, without the upper bits; raises RemoteProtocolError if it is not whole."""
    if len(data) % NUMBER_BYTES:
        raise RemoteProtocolError(f"{len(data)} bytes that are not numbers of {NUMBER_BYTES}")
    wide = np.zeros((len(data) // NUMBER_BYTES, 8), np.uint8)
    wide[:, :NUMBER_BYTES] = np.frombuffer(data, np.uint8).reshape(-1, NUMBER_BYTES)
    return wide.reshape(-1).view("<u8").astype(np.uint64)


def _agreed(own: X25519PrivateKey, other: bytes, count: int) -> Numbers:
    secret = own.exchange(X25519PublicKey.from_public_bytes(other))
    return _expanded(secret, count)


def _expanded(secret: bytes, count: int) -> Numbers:
    """As many numbers as are wanted, of a secret: the stream of ChaCha20."""
    stream = Cipher(algorithms.ChaCha20(_derived(secret, b"mask"), bytes(16)), mode=None).encryptor()
    return np.frombuffer(stream.update(bytes(8 * count)), "<u8").astype(np.uint64)


def _key_of(seed: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(_derived(seed, b"key"))


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=b"splitcom " + purpose).derive(secret)


def _between(sender: int, receiver: int) -> bytes:
    return f"{sender} to {receiver}".encode()


def _shamir() -> Any:
    try:
        from Crypto.Protocol.SecretSharing import Shamir
    except ImportError as error:
        raise MissingExtraError("secure aggregation", "privacy", error) from error
    return Shamir
