"""The Gaussian mechanism on vectors: clip each to a norm, add normal noise. Knows no flow and no model."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from splitcom.language import ArgumentError, Call, Registry
from splitcom.privacy.draws import check_noise, key_of, normal

MECHANISMS: Registry["Gaussian"] = Registry("mechanism", "a mechanism, such as gaussian(0.5, clip=60)")


@MECHANISMS.register
@dataclass(frozen=True)
class Gaussian(Call):
    """Clips each token's vector to an L2 norm and adds normal noise to each of its numbers.

        x  <-  x * min(1, clip / norm(x)) + noise * clip * N(0, 1)

    Any two clipped vectors are at most 2 clip apart, so one release has the noise multiplier noise / 2 (Dwork and Roth
    2014, appendix A; Balle and Wang 2018, 1805.06530). How many releases there are is counted by whoever sends.

    Args:
        noise: standard deviation of each number's noise, in multiples of the clipping norm.
        clip: largest norm of a hidden state.
        gradients: the same of a token's gradient of its own loss, at the tail; needed in the U-shape.
        delta: the probability that is left out of the guarantee.
        seed: noise that can be drawn again, by the server too; -1: from the system.
    """

    name = "gaussian"
    example = "gaussian(0.5, clip=60)"

    noise: float
    clip: float
    gradients: float = 0.0
    delta: float = 1e-6
    seed: int = -1

    def __post_init__(self) -> None:
        check_noise(self.noise, self.delta, self.seed)
        if not self.clip > 0:
            raise ArgumentError("clip", f"must be above 0; it is {self.clip:g}")
        if self.gradients < 0:
            raise ArgumentError("gradients", f"must not be below 0; it is {self.gradients:g}")

    @property
    def multiplier(self) -> float:
        """Standard deviation of the noise, in multiples of how far apart two clipped vectors can be."""
        return self.noise / 2

    def key(self, client: str, folder: Path | None = None) -> bytes:
        """A client's key: always the same of its folder, where it is left, and of this one's seed; else a new one.

        Raises RunError or OSError if it cannot be written.
        """
        return key_of(client, self.seed, None if folder is None else folder / "noise.key")

    def released(self, values: Tensor, clip: float, source: int | bytes | None = None) -> Tensor:
        """Vectors [N, D], clipped and noised: fp32 on their device.

        The noise is always the same of a key, and of a seed if this has one; else it is new.
        """
        vectors = values.detach().double()
        vectors = vectors * (clip / vectors.norm(dim=1, keepdim=True)).clamp(max=1.0)
        noise = normal((*values.shape,), source if isinstance(source, bytes) or self.seed >= 0 else None)
        noised: Tensor = vectors + self.noise * clip * noise.to(vectors.device)
        return noised.float()


def parse(text: str) -> Gaussian:
    """Make a mechanism from its text; `str(mechanism)` is the canonical text.

    Raises SpecError if the text cannot be read or an argument is out of range; it points at the place.

    >>> str(parse("gaussian( noise=0.5, clip = 60 )"))
    'gaussian(0.5, 60.0)'
    """
    return MECHANISMS.parse(text)
