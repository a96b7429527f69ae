"""What a packet says of step and basis: the step where it changes, the mean, the directions that are missing.

Knows no tokens but for what their values need.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from splitcom.codecs.lattice.basis import UNIT, Basis, mean_of, spread_of
from splitcom.codecs.lattice.coder import Coder, MatrixModel, code_uints
from splitcom.codecs.lattice.flow import Flow
from splitcom.codecs.lattice.parameters import DIMENSION_BITS, Klt
from splitcom.codecs.wire import Floats, Floats32, Ints
from splitcom.errors import PacketError

_MIN_STEP = 1e-30
_LEAST_PART = 2.0**-14  # of a mean, that a step is


@dataclass(frozen=True)
class Head:
    """Step and mean where the packet sets them, and the directions to add."""

    step_bits: Ints
    basis: Basis
    """With the directions that the packet adds, last."""
    num_new: int


@dataclass(frozen=True)
class HeadCoding:
    """How heads are made, written and read; the same at both ends."""

    klt: Klt
    step: float
    """In units of the values' spread."""
    fresh: bool
    """Whether the packet begins a flow state."""
    sets_step: bool
    """Whether the packet has a step of its own, or the flow's first."""

    def plan(
        self, values: Tensor, flow: Flow, factors: Ints, weights: Floats, seen: bool
    ) -> tuple[Head, Floats32]:
        """What fits `values` `[tokens, hidden]`, and their coordinates; only the sender does. Sets the flow's step.

        `seen`: whether each sample has come before.
        """
        if self.sets_step:
            spread = spread_of(values, self.klt.centre == "mean", weights)
            # tokens that are all alike have no spread, and yet a mean that must fit into its code
            largest = float(values.mean(0).abs().max()) if self.klt.centre == "mean" else 0.0
            flow.step = max(self.step * spread, largest * _LEAST_PART, _MIN_STEP)
        basis = flow.basis
        if self._sets_mean:
            basis = Basis(mean_of(values, flow.step, weights), basis.rows)
        coordinates = basis.coordinates(values, flow.step)
        rows, most = basis.rows[:0], self._room(basis, *values.shape)
        if most:
            scales = UNIT / (flow.units * factors[:, 0]) * weights
            rows = basis.missing(values, coordinates, flow.step, most, self.klt.threshold, scales, seen)
        if len(rows):
            basis, coordinates = basis.extended_with(rows, values, coordinates, flow.step)
        found = np.asarray(coordinates.float().cpu().numpy())
        return Head(flow.step_bits, basis, len(rows)), found

    def code(self, coder: Coder, flow: Flow, head: Head | None, num_tokens: int) -> None:
        """Code a head, and put step and basis into the flow."""
        if self.sets_step:
            flow.step_bits = code_uints(coder, None if head is None else head.step_bits, 1, 15)
        basis, hidden = flow.basis, len(flow.basis.mean)
        if self._sets_mean:
            given = None if head is None else head.basis.mean[:, None]
            mean = MatrixModel.new(1).code(coder, given, hidden, 1).astype(np.int64)
            basis = Basis(mean[:, 0], basis.rows)
        most = self._room(basis, num_tokens, hidden)
        if most:
            number = None if head is None else np.array([head.num_new])
            num_rows = int(code_uints(coder, number, 1, DIMENSION_BITS)[0])
            if num_rows > most:
                raise PacketError(f"{num_rows} new directions, where there is room for {most}")
            new = None if head is None else head.basis.rows[len(head.basis.rows) - num_rows :].T
            rows = MatrixModel.new(num_rows).code(coder, new, hidden, num_rows)
            basis = basis.extended(rows.T) if head is None else basis
        flow.basis = basis if head is None else head.basis

    @property
    def _sets_mean(self) -> bool:
        return self.fresh and self.klt.centre == "mean"

    def _room(self, basis: Basis, num_tokens: int, hidden: int) -> int:
        """How many directions a batch may add: at most one for each of its tokens."""
        return min(min(self.klt.dims, hidden) - len(basis.rows), num_tokens)
