"""What a packet says of its tokens: how the drift map changes, how each token is predicted, and what that misses.

coordinates ─► - prediction ─► codes ─► packet ─► codes ─► + prediction ─► coordinates
"""

from dataclasses import dataclass

import numpy as np

from splitcom.codecs.lattice.coder import Coder
from splitcom.codecs.lattice.drift import Update, code_update, fit, predicted, updated
from splitcom.codecs.lattice.flow import Flow
from splitcom.codecs.lattice.parameters import Predict
from splitcom.codecs.lattice.predict import Floats, Modes, plan, quantized, replay, restore
from splitcom.codecs.lattice.tokens import Tokens
from splitcom.codecs.wire import Bools, Ints

_FAR = float(1 << 30)


@dataclass(frozen=True)
class Body:
    """What a packet says of the tokens."""

    update: Update | None
    modes: Modes
    codes: Ints

    def skipped(self, tokens: Tokens) -> Bools:
        """Samples `[batch]` that are their reference, moved by the map, and nothing else."""
        return tokens.known & ~tokens.any_of((self.codes != 0).any(1) | ~self.modes.usual)


@dataclass(frozen=True)
class BodyCoding:
    """How bodies are made, written and read; the same at both ends."""

    predict: Predict | None
    dead_zone: float

    def plan(self, coordinates: Floats, tokens: Tokens, flow: Flow, weights: Floats) -> Body:
        """What is cheapest for `coordinates` `[tokens, directions]`; only the sender does."""
        dims, units = coordinates.shape[1], flow.units * tokens.factors
        # what is far beyond the limit of what can be coded could be beyond fp32 when squared
        coordinates = coordinates.clip(-_FAR, _FAR)
        if self.predict is None:
            codes = quantized(coordinates, self.dead_zone, units)
            return Body(None, Modes.all_usual(len(codes)), codes)
        own = tokens.reference
        update = None
        if tokens.known.any():
            rows = tokens.of_known
            drift, rank = flow.drift_of(dims), self.predict.rank
            update = fit(coordinates[rows], own[rows], drift, rank, units[rows], weights[rows])
            own, _ = _moved(own, rows, drift, update)
        window = tokens.window(bool(self.predict.window))
        modes, codes = plan(coordinates, own, tokens.known, tokens.lengths, window, self.dead_zone, units)
        return Body(update, modes, codes)

    def code(self, coder: Coder, flow: Flow, body: Body | None, tokens: Tokens) -> tuple[Body, Ints]:
        """Code a body; gives it, and the coordinates `[tokens, directions]`."""
        dims, num_tokens = len(flow.basis.rows), len(tokens.reference)
        own, update, modes = tokens.reference, None, Modes.all_usual(num_tokens)
        if self.predict is not None:
            if tokens.known.any():
                update = code_update(coder, None if body is None else body.update, dims)
                own, matrix = _moved(own, tokens.of_known, flow.drift_of(dims), update)
                if self.predict.rank:
                    flow.set_drift(matrix)
            width = int(len(tokens.recent) + num_tokens).bit_length()
            given = None if body is None else body.modes
            modes = flow.modes.code(coder, given, tokens.known, tokens.lengths, width)
        units = flow.units * tokens.factors
        kinds = (modes.usual & tokens.of_known) + 2 * (tokens.factors[:, 0] > 1)
        codes = flow.codes.code(coder, None if body is None else body.codes, num_tokens, dims, kinds)
        if self.predict is None:
            coordinates = restore(np.zeros_like(codes), codes, units)
        else:
            window = tokens.window(bool(self.predict.window))
            coordinates = replay(modes, codes, own, tokens.known, tokens.lengths, window, units)
        return Body(update, modes, codes), coordinates


def _moved(own: Ints, rows: Bools, matrix: Ints, update: Update) -> tuple[Ints, Ints]:
    """What the known samples' references predict, and the updated map."""
    matrix = updated(matrix, update, own[rows])
    result = np.zeros_like(own)
    result[rows] = predicted(own[rows], matrix, update)
    return result, matrix
