"""The directions along which tokens vary outside of a basis; only a sender looks for them. Knows no packet.

tokens ─► few rows: the farthest outside, sums of the others ─► their principal directions, how many are missing
       ─► products of all tokens with these: subspace iteration ─► the directions, and the spread along each

What is found is rounded before it is sent, so that no two machines need find the same to the bit.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from splitcom.codecs.wire import Floats

_ROWS = 256  # in which directions are looked for first; of smaller matrices all are computed
_MANY = 3  # more than one in so many rows are missing: twice as many rows
_UNEVEN = 1.25  # times the mean is what the strongest of many have that are equal but for chance
_UNEVEN_SEEN = 2.5  # the same of tokens that have been seen before
_ROUNDS = 1  # of subspace iteration
_FIRST_ROUNDS = 4  # if there is no basis yet: what they miss then costs all packets that follow

BLOCK = 512
"""Tokens whose numbers a core's cache holds while they are computed."""


@dataclass(frozen=True)
class Outside:
    """What tokens have outside of a basis, in steps: a matrix `[tokens, hidden]`, never formed if it is large."""

    values: Tensor
    scales: Tensor
    """`[tokens, 1]`: what each token is to be multiplied by."""
    step: float
    mean: Tensor
    """`[hidden]`, in steps."""
    coordinates: Tensor
    """`[tokens, directions]`: what is inside is these by `directions`, and the mean."""
    directions: Tensor

    def whole(self) -> Tensor:
        """The matrix itself."""
        return (self.values / self.step - self.coordinates @ self.directions - self.mean) * self.scales

    def squared_times(self, columns: Tensor) -> Tensor:
        """The transposed matrix times the matrix times `columns` `[hidden, n]`."""
        values, coordinates, scales = self.values, self.coordinates, self.scales
        scaled, inside, centre = columns / self.step, self.directions @ columns, self.mean @ columns
        # both products of a block of tokens while a core's cache holds it
        size = BLOCK if values.device.type == "cpu" else len(values)
        result = torch.zeros_like(columns.mT)
        weighted = torch.empty(len(values), columns.shape[1], dtype=values.dtype, device=values.device)
        for start in range(0, len(values), size):
            rows = slice(start, start + size)
            product = values[rows] @ scaled - coordinates[rows] @ inside - centre
            weighted[rows] = product * scales[rows].square()
            result += weighted[rows].mT @ values[rows]
        inside = (weighted.mT @ coordinates) @ self.directions
        return (result / self.step - inside - weighted.sum(0)[:, None] * self.mean).mT

    def principal(self, threshold: float, seen: bool = False) -> tuple[Floats, Floats]:
        """As `principal` below; of large matrices only those of more than about `threshold`, and most of these.

        Of tokens that have all been `seen` before, fewer are worth looking for: most is chance.
        """
        num_tokens, size, uneven = len(self.values), _ROWS, _UNEVEN_SEEN if seen else _UNEVEN
        while size < min(self.values.shape):
            rows = self._rows(size)
            energies, vectors = _eigen(rows @ rows.mT)
            # half of the rows are sums of tokens, which have a part of all weaker directions along each
            beyond = energies.flip(0).cumsum(0).flip(0) - energies
            count = int((energies - uneven * beyond / (size // 2) > threshold**2 * num_tokens).sum())
            if seen and not count:
                return np.zeros(0), np.zeros((0, self.values.shape[1]))
            if count * _MANY <= size:
                # some more, for what the rows show only in part
                found = normalize(rows.mT @ vectors[:, : count + count // 2 + 8], dim=0)
                for _ in range(_ROUNDS if len(self.directions) else _FIRST_ROUNDS):
                    found, energies = _left_vectors(self.squared_times(found))
                return np.sqrt(energies.double().cpu().numpy() / num_tokens), found.mT.double().cpu().numpy()
            size *= 2
        return principal(self.whole())

    def _rows(self, size: int) -> Tensor:
        """Rows `[size, hidden]` whose products with one another are on average those of all tokens.

        Half of them are the tokens that have most outside: of gradients few have nearly all. In each of the others
        some tokens are added up, with signs.
        """
        order, half = self._energies.argsort(descending=True), size // 2
        signs = 2 * torch.randint(2, (len(order), 1), generator=torch.Generator().manual_seed(0)) - 1
        weights = (signs.to(self.scales) * self.scales).squeeze(1)
        first, others = order[:half], order[half:]
        # each sum is of tokens that are as far from one another in that order
        row = torch.arange(len(others), device=order.device) % half
        others = others[row.argsort(stable=True)]
        each, more = divmod(len(others), half)
        index = torch.arange(half, device=order.device)
        starts = index * each + index.clamp(max=more)

        def added(matrix: Tensor) -> Tensor:
            if not matrix.shape[1]:  # which embedding_bag refuses with several threads
                return matrix.new_zeros(size, 0)
            sums = embedding_bag(others, matrix, starts, mode="sum", per_sample_weights=weights[others])
            return torch.cat([matrix[first] * weights[first, None], sums])

        inside = added(self.coordinates) @ self.directions + added(torch.ones_like(self.scales)) * self.mean
        return added(self.values) / self.step - inside

    @property
    def _energies(self) -> Tensor:
        """About the square of what each token has outside, `[tokens]`: as if directions were orthogonal."""
        around: Tensor = torch.linalg.vector_norm(self.values, dim=1).square() / self.step**2
        around -= 2 / self.step * (self.values @ self.mean)
        inside = self.coordinates.square() @ self.directions.square().sum(1)
        return (around + self.mean.square().sum() - inside) * self.scales[:, 0].square()


def principal(matrix: Tensor) -> tuple[Floats, Floats]:
    """Spread (root mean square) along each principal direction, descending, and the directions as rows."""
    rows, width = matrix.shape
    centred = matrix.double().cpu().numpy()
    products = centred.T @ centred if width <= rows else centred @ centred.T
    energies, vectors = _eigen(torch.from_numpy(products))
    directions = vectors.mT.numpy() if width <= rows else vectors.mT.numpy() @ centred
    lengths = np.sqrt((directions**2).sum(1, keepdims=True))
    return np.sqrt(energies.numpy() / rows), directions / np.where(lengths > 0, lengths, 1.0)


def _eigen(products: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of a matrix of products, descending, and its eigenvectors as columns."""
    # fp32 is half the time, and exact enough for directions that are rounded anyway
    total = float(products.trace()) or 1.0
    scaled = products / total
    try:
        energies, vectors = torch.linalg.eigh(scaled.float())
    except RuntimeError:  # fp32 does not converge on many equal rows beside one far larger
        energies, vectors = torch.linalg.eigh(scaled.double())
    return energies.to(products).flip(0).clamp(min=0) * total, vectors.to(products).flip(1)


def _left_vectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors `[rows, columns]` of a tall matrix, and its singular values, descending."""
    basis, triangle = torch.linalg.qr(matrix)
    vectors, lengths, _ = torch.linalg.svd(triangle)
    return basis @ vectors, lengths
