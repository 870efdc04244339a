"""Functions of linear predictions: f_i(x) = n scale sum_j phi(offset_ij + rows_ij . x) + penalty / 2 |x|^2.

Ridge and logistic regression are two choices of phi.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
from torch import Tensor


class Phi(Protocol):
    """A convex function of one number, applied to every element of f64[...]."""

    def value(self, z: Tensor) -> Tensor:
        """phi(z)."""
        ...

    def slope_(self, z: Tensor) -> Tensor:
        """phi'(z), in place."""
        ...

    def curvature(self, z: Tensor) -> Tensor:
        """phi''(z)."""
        ...


@dataclass(frozen=True, eq=False)
class Linear:
    """An `Objective`. rows: f64[n, r, d], shard by shard, short shards padded with zeros. offset: f64[n, r].

    scale: the weight of one row in f. Padding rows must contribute nothing: phi(offset) = 0 there.
    """

    phi: Phi
    rows: Tensor
    offset: Tensor
    scale: float
    penalty: float
    flat: tuple[Tensor, Tensor] = field(init=False)
    """Views offset f64[n r] and rows f64[n r, d], made once: making them in every call would take half of the time of
    a small problem."""
    weight: float = field(init=False)
    """The weight of one row in its worker's f_i: n scale."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "flat", (self.offset.flatten(), self.rows.flatten(0, 1)))
        object.__setattr__(self, "weight", len(self.rows) * self.scale)

    def gradients(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Every worker's gradient: one point f64[d], or one per worker f64[n, d] -> f64[n, d]."""
        slopes = self.phi.slope_(self._predict(x))
        if out is None:
            pull = x if x.dim() == 1 else x.unsqueeze(1)
            return torch.baddbmm(pull, slopes, self.rows, beta=self.penalty, alpha=self.weight).squeeze(1)
        rows = out.unsqueeze(1)
        # With beta = 0 and x added afterwards: broadcasting x over the workers first takes longer than both.
        torch.baddbmm(rows, slopes, self.rows, beta=0.0, alpha=self.weight, out=rows)
        return out.add_(x, alpha=self.penalty)

    def loss(self, x: Tensor) -> float:
        """f at a point f64[d]."""
        return (self.scale * self.phi.value(self._predict(x)).sum() + self.penalty / 2 * x.dot(x)).item()

    def newton(self, x: Tensor, g: Tensor) -> Tensor:
        """Solve (S'S + penalty I) s = g by the smaller of S'S and S S'; S: rows weighted by sqrt(scale phi'')."""
        weights = (self.scale * self.phi.curvature(self._predict(x))).sqrt()
        s = self.flat[1] * weights.view(-1, 1)
        if s.shape[0] >= s.shape[1]:
            return _solve(s.T @ s, self.penalty, g)
        return (g - s.T @ _solve(s @ s.T, self.penalty, s @ g)) / self.penalty

    def _predict(self, x: Tensor) -> Tensor:
        """Linear predictions f64[n, 1, r]; one matrix-vector product for one point, which is faster than a batch."""
        n, r = self.offset.shape
        if x.dim() == 1:
            return torch.addmv(*self.flat, x).view(n, 1, r)
        return torch.baddbmm(self.offset.unsqueeze(1), x.unsqueeze(1), self.rows.mT)


def split(values: Tensor, n: int, padding: float = 0.0) -> Tensor:
    """Split f64[m, ...] into n contiguous shards of almost equal size, padded: f64[n, ceil(m / n), ...]."""
    return torch.nn.utils.rnn.pad_sequence(list(values.tensor_split(n)), batch_first=True, padding_value=padding)


def spectrum(rows: Tensor) -> Tensor:
    """Eigenvalues of A'A, ascending, without those that are zero by shape: f64[..., m, d] -> f64[..., min(m, d)]."""
    m, d = rows.shape[-2:]
    gram = rows.mT @ rows if m >= d else rows @ rows.mT
    return cast(Tensor, torch.linalg.eigvalsh(gram)).clamp(min=0)


def _solve(matrix: Tensor, ridge: float, g: Tensor) -> Tensor:
    """Compute (matrix + ridge I)^-1 g by Cholesky factorisation; overwrites the matrix."""
    matrix.diagonal().add_(ridge)
    factor = cast(Tensor, torch.linalg.cholesky(matrix))
    return torch.cholesky_solve(g.unsqueeze(1), factor).squeeze(1)
