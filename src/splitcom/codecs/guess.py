"""What both ends can tell of a batch's tokens before its packet: the receiver holds more than references."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from splitcom.codecs.wire import Bools, Ints


class Guess(Protocol):
    """Values that tokens may be near to. Two ends may compute them with other roundings of fp32."""

    def of(self, ids: Sequence[int], lengths: Ints) -> tuple[Bools, Tensor] | None:
        """Which tokens of these samples have one, bool `[tokens]`, and those values, fp32 `[guessed, hidden]`.

        None if nothing can be told of them.
        """
