"""What a lattice codec knows of a flow: a `FlowState` as the objects that use it."""

import numpy as np

from splitcom.codecs.lattice.basis import UNIT, Basis
from splitcom.codecs.lattice.coder import BitModel, Coder, MatrixModel, code_uints
from splitcom.codecs.lattice.guessed import new_model
from splitcom.codecs.lattice.predict import ModeModel
from splitcom.codecs.references import FlowState
from splitcom.codecs.wire import Ints
from splitcom.errors import PacketError

_UNITS_BITS = 8
MAX_UNITS = (1 << _UNITS_BITS) - 1
"""Most units of a step."""


class Flow:
    """A flow state as the objects that use it; whatever they learn goes into the state's arrays."""

    def __init__(self, state: FlowState) -> None:
        self.state = state
        arrays = state.arrays
        self.codes = MatrixModel(arrays["counts"], arrays["means"])
        self.shift = MatrixModel(arrays["shift_counts"], arrays["shift_means"])
        self.modes = ModeModel(BitModel(arrays["modes"]))
        self.prompts = BitModel(arrays["prompts"])
        self.guesses = BitModel(arrays.setdefault("guesses", new_model().counts))

    @classmethod
    def after(cls, state: FlowState | None, dims: int, hidden: int) -> "Flow":
        """A copy of the state of a flow, or a new one."""
        if state is not None:
            return cls(state.copy())
        codes, shift = MatrixModel.new(dims, kinds=6), MatrixModel.new(hidden, kinds=2)
        arrays = {
            "mean": np.zeros(hidden, np.int64),
            "rows": np.zeros((0, hidden), np.int64),
            "step": np.zeros(1, np.int64),
            "units": np.array([UNIT]),
            "counts": codes.bits.counts,
            "means": codes.means,
            "modes": ModeModel.new().bits.counts,
            "prompts": np.array([[63, 1]]),  # texts are longer than that, and begin with a prompt
            "map": np.zeros((1, 0), np.int64),
            "shift_counts": shift.bits.counts,
            "shift_means": shift.means,
        }
        return cls(FlowState(arrays=arrays))

    @classmethod
    def like(cls, other: FlowState, ratio: float, dims: int) -> "Flow":
        """A new state with the basis of another flow's, in whose steps its own is `ratio`."""
        known = cls(other)
        flow = cls.after(None, dims, len(known.basis.mean))
        flow.step = known.step * ratio
        mean = np.rint(known.basis.mean * (known.step / flow.step)).astype(np.int64)
        flow.basis = Basis(mean, known.basis.rows)
        flow.state.chain = other.chain
        return flow

    @property
    def basis(self) -> Basis:
        """Mean and directions."""
        arrays, derived = self.state.arrays, self.state.derived
        if "basis" not in derived:
            derived["basis"] = Basis(arrays["mean"], arrays["rows"])
        basis = derived["basis"]
        assert isinstance(basis, Basis)
        return basis

    @basis.setter
    def basis(self, basis: Basis) -> None:
        self.state.derived["basis"] = basis
        # far below 2^31 each, and most of what is kept of a flow
        self.state.arrays["mean"], self.state.arrays["rows"] = (
            basis.mean,
            basis.rows.astype(np.int32, copy=False),
        )

    @property
    def drift(self) -> Ints:
        """The drift map `[1 + inputs, outputs]`, of the first directions."""
        return self.state.arrays["map"].astype(np.int64)

    @drift.setter
    def drift(self, matrix: Ints) -> None:
        self.state.arrays["map"] = matrix.astype(np.int32)

    @property
    def step_bits(self) -> Ints:
        """The step's bfloat16 without its sign, in 15 bits."""
        return self.state.arrays["step"]

    @step_bits.setter
    def step_bits(self, bits: Ints) -> None:
        self.state.arrays["step"] = bits

    @property
    def step(self) -> float:
        """The step that the coordinates' unit is an eighth of."""
        return float((self.step_bits << 16).astype(np.int32).view(np.float32)[0])

    @step.setter
    def step(self, step: float) -> None:
        self.step_bits = np.array([np.float32(step)]).view(np.int32).astype(np.int64) >> 16

    @property
    def units(self) -> int:
        """Units in a step of the codes."""
        return int(self.state.arrays["units"][0])

    def code_units(self, coder: Coder, units: int | None) -> None:
        """Code another number of units than in the packet before."""
        coded = code_uints(coder, None if units is None else np.array([units]), 1, _UNITS_BITS)
        if coded[0] in (0, self.units):
            raise PacketError(
                f"a step of {coded[0]} units after one of {self.units}; it must be another, not 0"
            )
        self.state.arrays["units"] = coded
