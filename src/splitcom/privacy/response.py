"""Randomised response: the class that a sample is trained as, in place of its own. Knows no model and no message."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import exp
from pathlib import Path

from splitcom.language import ArgumentError, Call, Registry
from splitcom.privacy.draws import key_of

RESPONSES: Registry["Randomised"] = Registry("mechanism", "noise of labels, such as randomised(1.0)")
_MOST = 30.0  # here no label in 10^13 is another one


@RESPONSES.register
@dataclass(frozen=True)
class Randomised(Call):
    """Keeps a class of K with probability e^epsilon / (e^epsilon + K - 1), and else has one of the others, all alike.

    So whatever is made of it tells the class only as far as epsilon says, with delta 0 (Warner 1965; of training, Ghazi
    et al. 2021, 2102.06062). A sample's class is drawn once: all its visits in a run tell the same.

    Args:
        epsilon: of one label.
        seed: classes that can be drawn again, by the server too; -1: from the system.
    """

    name = "randomised"
    example = "randomised(1.0)"

    epsilon: float
    seed: int = -1

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= _MOST:
            raise ArgumentError("epsilon", f"must be above 0 and at most {_MOST:g}; it is {self.epsilon:g}")
        if self.seed < -1:
            raise ArgumentError("seed", f"must be 0 or more, or -1; it is {self.seed}")

    def kept(self, num_classes: int) -> float:
        """The probability that a class stays as it is.

        >>> round(Randomised(1.0).kept(2), 3)
        0.731
        """
        return 1 / (1 + (num_classes - 1) * exp(-self.epsilon))

    def drawn(self, labels: Sequence[int], samples: Sequence[int], num_classes: int, key: bytes) -> list[int]:
        """The classes that samples are trained as: always the same of the same key and identifier."""
        found = []
        for label, sample in zip(labels, samples, strict=True):
            digest = blake2b(sample.to_bytes(8, "little", signed=True), key=key, digest_size=16).digest()
            chance, other = (int.from_bytes(part, "little") / 2**64 for part in (digest[:8], digest[8:]))
            is_kept = chance < self.kept(num_classes)
            found.append(label if is_kept else (label + 1 + int(other * (num_classes - 1))) % num_classes)
        return found

    def key(self, folder: Path, client: str) -> bytes:
        """A client's own key, from its folder, where it is left for as long as the run goes on; of a seed, the seed's.

        Raises RunError or OSError if it cannot be written.
        """
        return key_of(client, self.seed, folder / "labels.key")


def parse_response(text: str) -> Randomised:
    """Make a mechanism from its text; `str(mechanism)` is the canonical text.

    Raises SpecError if the text cannot be read or an argument is out of range; it points at the place.

    >>> str(parse_response("randomised( epsilon = 1 )"))
    'randomised(1.0)'
    """
    return RESPONSES.parse(text)
