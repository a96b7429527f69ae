"""What a codec keeps of a flow beside its references: the same on both sides, part of a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from splitcom.codecs.wire import Ints


@dataclass
class FlowState:
    """Named integer arrays that a codec learns from the packets of a flow, and which packets these were."""

    chain: int = 0
    """CRC-32 over all packets since the state began: equal chains mean equal states."""
    arrays: dict[str, Ints] = field(default_factory=dict)
    derived: dict[str, object] = field(default_factory=dict, compare=False, repr=False)
    """What follows from the arrays alone, to the last bit, as it is not saved; is never changed in place, and is worth
    keeping from packet to packet."""

    def copy(self) -> "FlowState":
        """A state of its own, which can be changed until a packet has turned out to be good."""
        return FlowState(
            self.chain, {name: array.copy() for name, array in self.arrays.items()}, dict(self.derived)
        )

    def flat(self) -> dict[str, Ints]:
        """Everything as flat arrays, for a checkpoint; shapes are arrays too."""
        shapes = {f"shape.{name}": np.array(array.shape, "<i8") for name, array in self.arrays.items()}
        values = {f"value.{name}": array.astype("<i8").reshape(-1) for name, array in self.arrays.items()}
        return {"chain": np.array([self.chain], "<i8"), **shapes, **values}

    @classmethod
    def of(cls, flat: Mapping[str, Ints]) -> "FlowState | None":
        """Inverse of `flat`; None if there is none. KeyError or ValueError if something does not fit."""
        if "chain" not in flat:
            return None
        names = [name.removeprefix("value.") for name in flat if name.startswith("value.")]
        arrays = {name: flat[f"value.{name}"].reshape(tuple(flat[f"shape.{name}"])) for name in names}
        return cls(int(flat["chain"][0]), arrays)
