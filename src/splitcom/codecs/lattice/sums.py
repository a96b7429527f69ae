"""What makes sums over a packet's tokens right: of the tokens, and of their products with columns that both ends have.

Of gradients sums are what counts. What a packet's coordinates miss of them is sent in smaller units:

    mean of what is missed [hidden] ─────────────► moves all tokens
    columnsᵀ (values - what is restored) [n, hidden] ─► columns times it is added

The columns come from what both ends have of these tokens already (`along`). They are rounded, so that all that is added
is integers; nothing is built on what they give but the values.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from splitcom.codecs.lattice.basis import (
    COORDINATE_BITS,
    PRODUCT_BITS,
    UNIT,
    Basis,
    Beside,
    rounded,
    shift_of,
)
from splitcom.codecs.lattice.coder import Coder, code_uints
from splitcom.codecs.lattice.flow import Flow
from splitcom.codecs.lattice.parameters import COLUMN_BITS
from splitcom.codecs.wire import Ints, Points
from splitcom.errors import PacketError

_SUM_BITS = 2  # of a step: errors of the columns' sums are a quarter of a token's
_FINEST = 1 << PRODUCT_BITS - _SUM_BITS  # parts of 1 that columns are rounded to, at most
_FINITE = 1e38


@dataclass(frozen=True)
class Sums:
    """The corrections of one packet, as integers."""

    shift: Ints
    """`[hidden]`: of every token, see `Basis.inverse`."""
    along: Ints
    """`[n, hidden]`: of what each column stands for, in a quarter of a step."""
    columns: Tensor | None
    """`[tokens, n]`, as `_whole` gives them."""

    def beside(self, units: int) -> Beside | None:
        """What the columns add to tokens whose steps have `units`."""
        if self.columns is None or not len(self.along):
            return None
        parts = _parts(units)
        right = self.along * (units * (1 << PRODUCT_BITS - COORDINATE_BITS - _SUM_BITS) // parts)
        return Beside(self.columns, right.astype(np.float32), parts + len(self.along))


def code_sums(
    coder: Coder,
    flow: Flow,
    coordinates: Points,
    most: int,
    columns: Tensor | None,
    values: Tensor | None = None,
) -> Sums:
    """Code what `coordinates` `[tokens, directions]` miss of `values`; of a reader, these are None.

    Args:
        most: columns that the codec has; 0: packets do not speak of any.
        columns: `[tokens, n]`, orthonormal and with sums of 0; None if none are known.
    """
    hidden, step = len(flow.basis.mean), flow.step * flow.units / UNIT
    shift, missed, number = None, None, None
    if values is not None:
        wanted = values.mean(0).double().cpu().numpy()
        mean = flow.basis.mean_value(coordinates, flow.step)
        shift = shift_of(wanted - mean, step, len(values))[None]
    shift = flow.shift.code(coder, shift, 1, hidden)[0].astype(np.int64)
    known = 0 if columns is None else columns.shape[1]
    columns = None if columns is None else _whole(columns, flow.units)
    if values is not None and most:
        number = np.array([known])
        if columns is not None:
            unit = step / (1 << _SUM_BITS) * _parts(flow.units)
            missed = _in_units(flow.basis, values, columns, coordinates, flow.step, unit)
    count = int(code_uints(coder, number, 1, COLUMN_BITS)[0]) if most else 0
    if count > known:
        raise PacketError(
            f"the packet is right along {count} columns of what has passed of its tokens, and {known} are known"
        )
    kinds = np.ones(count, np.int64)
    along = flow.shift.code(coder, missed, count, hidden, kinds).astype(np.int64)
    return Sums(shift, along, None if columns is None else columns[:, :count])


def restored(flow: Flow, coordinates: Points, sums: Sums | None, device: torch.device | str) -> Tensor:
    """What integer `coordinates`, corrected by `sums`, stand for: fp32 `[tokens, hidden]`."""
    if sums is None:
        return flow.basis.inverse(coordinates, flow.step, device)
    beside = sums.beside(flow.units)
    return flow.basis.inverse(coordinates, flow.step, device, sums.shift, flow.units, beside)


def is_bounded(flow: Flow, coordinates: Points, sums: Sums | None) -> bool:
    """Whether what `restored` gives is finite for sure."""
    largest = float(np.abs(coordinates).max(initial=0)) * max(coordinates.shape[1], 1)
    largest += int(np.abs(flow.basis.mean).max(initial=0))
    if sums is not None:
        of_columns = int(np.abs(sums.along).max(initial=0)) * (1 + len(sums.along))
        largest += (int(np.abs(sums.shift).max(initial=0)) + of_columns) * flow.units
    return bool(largest * flow.step < _FINITE)


def _whole(columns: Tensor, units: int) -> Tensor:
    """Orthonormal columns as whole numbers of the parts of 1 that make their sums whole in the units of products."""
    return (columns * _parts(units)).round_()


def _parts(units: int) -> int:
    return min(_FINEST, (units & -units) << PRODUCT_BITS - COORDINATE_BITS - _SUM_BITS)


def _in_units(
    basis: Basis, values: Tensor, columns: Tensor, coordinates: Points, step: float, unit: float
) -> Ints:
    """The columns' products with what `coordinates` miss of `values`, `[n, hidden]`."""
    columns = columns.to(values)
    whole = (columns.mT @ values).double().cpu().numpy()
    inside = (columns.mT.cpu().numpy() @ coordinates).astype(np.float64)
    return rounded((whole - basis.inside(inside, step)) / unit)
