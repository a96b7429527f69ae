"""What a packet says of its tokens: how the drift map changes, how each token is predicted, and what that misses.

coordinates ─► - prediction ─► codes ─► packet ─► codes ─► + prediction ─► coordinates
"""

from dataclasses import dataclass

import numpy as np

from splitcom.codecs.lattice.coder import Coder, Codes, bands_of, code_uints
from splitcom.codecs.lattice.drift import Update, code_update, fit, predicted, updated
from splitcom.codecs.lattice.flow import Flow
from splitcom.codecs.lattice.parameters import Predict
from splitcom.codecs.lattice.predict import (
    Modes,
    fitted_gains,
    plan,
    quantized,
    replay,
    restore,
)
from splitcom.codecs.lattice.tokens import Tokens
from splitcom.codecs.wire import Bools, Floats, Floats32, Ints, Points

_FAR = float(1 << 30)
_GAIN_BITS = 4  # of 0 to 8 eighths


@dataclass(frozen=True)
class Body:
    """What a packet says of the tokens."""

    update: Update | None
    modes: Modes
    codes: Codes
    coordinates: Points | None = None
    """What the sender has found these to mean."""
    matrix: Ints | None = None
    """The map that the sender has used."""
    gains: Ints | None = None
    """`[bands]`: how many eighths of what a pointer names are taken; None takes all of it."""

    def skipped(self, tokens: Tokens) -> Bools:
        """Samples `[batch]` that are their reference, moved by the map, and nothing else."""
        return tokens.known & ~tokens.any_of((self.codes != 0).any(1) | ~self.modes.usual)


@dataclass(frozen=True)
class BodyCoding:
    """How bodies are made, written and read; the same at both ends."""

    predict: Predict | None
    dead_zone: float
    first_dead_zone: float
    """Of samples without a reference."""

    def plan(self, coordinates: Floats32, tokens: Tokens, flow: Flow, weights: Floats) -> Body:
        """What is cheapest for `coordinates` `[tokens, directions]`; only the sender does."""
        dims, units = coordinates.shape[1], _units(flow, tokens)
        # what is far beyond the limit of what can be coded could be beyond fp32 when squared
        coordinates = coordinates.clip(-_FAR, _FAR)
        if self.predict is None:
            codes = quantized(coordinates, self.first_dead_zone, units)
            return Body(None, Modes.all_usual(len(codes)), codes)
        own, update, matrix = tokens.reference, None, None
        if tokens.known.any():
            rows = tokens.of_known
            drift, rank = flow.drift, self.predict.rank
            update = fit(
                coordinates[rows], own[rows], drift, rank, units[rows], weights[rows].astype(np.float32)
            )
            own, matrix = _moved(own, rows, drift, update)
        window, gains = tokens.window(bool(self.predict.window)), None
        if self.predict.gain == "fitted":
            new = ~tokens.of_own
            gains = fitted_gains(coordinates[new], window, units[new], bands_of(dims))
            window.gains = _by_direction(gains, dims)
        dead_zones = np.where(tokens.known, self.dead_zone, self.first_dead_zone)
        modes, codes, restored = plan(
            coordinates, own, tokens.of_own, tokens.known, tokens.lengths, window, dead_zones, units
        )
        return Body(update, modes, codes, restored, matrix, gains)

    def code(self, coder: Coder, flow: Flow, body: Body | None, tokens: Tokens) -> tuple[Body, Points]:
        """Code a body; gives it, and the coordinates `[tokens, directions]`."""
        dims, num_tokens = len(flow.basis.rows), len(tokens.reference)
        own, update, modes, gains = tokens.reference, None, Modes.all_usual(num_tokens), None
        if self.predict is not None:
            if tokens.known.any():
                update = code_update(coder, None if body is None else body.update, dims)
                matrix = None if body is None else body.matrix
                if matrix is None:
                    own, matrix = _moved(own, tokens.of_known, flow.drift, update)
                if self.predict.rank:
                    flow.drift = matrix
            width = tokens.most_named.bit_length()
            given = None if body is None else body.modes
            modes = flow.modes.code(coder, given, tokens.known, tokens.lengths, tokens.guessed, width)
            if self.predict.gain == "fitted" and (~modes.zero & ~(modes.usual & tokens.of_own)).any():
                fitted = None if body is None else body.gains
                gains = code_uints(coder, fitted, len(bands_of(dims)), _GAIN_BITS)
        is_prompt = tokens.factors[:, 0] > 1
        kinds = (modes.usual & tokens.of_known) + 2 * is_prompt
        kinds = np.where(modes.usual & tokens.guessed, 4 + is_prompt, kinds)
        codes = flow.codes.code(coder, None if body is None else body.codes, num_tokens, dims, kinds)
        coordinates = None if body is None else body.coordinates
        if coordinates is None:
            restored = Body(update, modes, codes, gains=gains)
            coordinates = self._replayed(restored, own, tokens, _units(flow, tokens))
        return Body(update, modes, codes), coordinates

    def _replayed(self, body: Body, own: Points, tokens: Tokens, units: Points) -> Points:
        if self.predict is None:
            return restore(np.zeros_like(own), body.codes, units)
        window = tokens.window(bool(self.predict.window))
        if body.gains is not None:
            window.gains = _by_direction(body.gains, own.shape[1])
        return replay(body.modes, body.codes, own, tokens.of_own, tokens.lengths, window, units)


def _units(flow: Flow, tokens: Tokens) -> Points:
    return (flow.units * tokens.factors).astype(np.float32)


def _by_direction(gains: Ints, dims: int) -> Points:
    return np.repeat(gains, [band.stop - band.start for band in bands_of(dims)]).astype(np.float32)


def _moved(own: Points, rows: Bools, matrix: Ints, update: Update) -> tuple[Points, Ints]:
    """What the known samples' references predict, beside guesses as they are, and the updated map."""
    if rows.all():
        matrix = updated(matrix, update, own)
        return predicted(own, matrix, update), matrix
    matrix = updated(matrix, update, own[rows])
    result = own.copy()
    result[rows] = predicted(own[rows], matrix, update)
    return result, matrix
