"""Bernoulli: send everything with probability p, else nothing.

Unbiased (x / p or 0) with omega = 1 / p - 1, or lazy (x or 0), contractive with delta = p: the operator of Rand-DIANA's
shifts (Shulgin and Richtárik 2022, arXiv:2206.10452). Both bounds are equalities for every x.
Wire: | 1 | d x float32 | or | 0 |, and zeros may follow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.checks import is_number
from gradwire.compress.protocol import from_omega
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Dense
from gradwire.wire import values as formats


@part("bernoulli", "compressor", example="bernoulli(p=0.2)")
@dataclass(frozen=True)
class Bernoulli:
    """Send everything with probability p, else nothing; scaled by 1 / p if `unbiased`, else contractive."""

    p: float
    unbiased: bool = True

    def __post_init__(self) -> None:
        if not is_number(self.p) or not 0 < self.p <= 1:
            raise ValueError(f"p must lie in (0, 1], got {self.p!r}")
        if self.unbiased not in (True, False):
            raise ValueError(f"unbiased must be true or false, got {self.unbiased!r}")
        object.__setattr__(self, "p", float(self.p))

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """Finite f[..., d] -> u8[..., m]: m is nbytes(d) if any row is sent, else 1."""
        flags = self._draw(x, turn)
        if not bool(flags.any()):
            return flags.byte()
        return torch.cat([flags.byte(), formats.encode(self._select(x, flags), "float32")], -1)

    def decode(self, wire: Tensor, d: int) -> Dense:
        """u8[..., m] with 1 <= m <= nbytes(d) -> Dense f32[..., d]; m must be nbytes(d) if any row is sent."""
        length = self.length(wire, d)
        if not length <= wire.shape[-1] <= self.nbytes(d):
            raise ValueError(f"{self} in dimension {d} takes {length} bytes, got {wire.shape[-1]}")
        if length == 1:
            return Dense(torch.zeros((*wire.shape[:-1], d), device=wire.device))
        return Dense(formats.decode(wire[..., 1:], "float32", d))

    def apply(self, x: Tensor, turn: Turn) -> Dense:
        """Finite f[..., d] -> C(x), as a peer decodes it, in x's dtype."""
        return Dense(formats.decoded(self._select(x, self._draw(x, turn)), "float32", turn))

    def length(self, wire: Tensor, d: int) -> int:
        """Return the bytes of a message, or of the longest of several (ValueError: a first byte is not 0 or 1)."""
        flags = wire[..., :1]
        if bool((flags > 1).any()):
            raise ValueError(f"a message of {self} begins with 0 or 1, got {int(flags.max())}")
        return self.nbytes(d) if bool(flags.any()) else 1

    def nbytes(self, d: int) -> int:
        """Return the largest number of bytes on the wire."""
        return 1 + formats.nbytes("float32", d)

    def omega(self, d: int) -> float | None:
        """Return 1 / p - 1 if unbiased, else None."""
        return 1 / self.p - 1 if self.unbiased else None

    def delta(self, d: int) -> float | None:
        """Return p if not scaled; if unbiased, 1 - omega where that is positive, else None."""
        return from_omega(1 / self.p - 1) if self.unbiased else self.p

    def _draw(self, x: Tensor, turn: Turn) -> Tensor:
        """Return bool[..., 1]: whether each row is sent."""
        rng = turn.rng(shared=False, device=x.device)
        return torch.rand((*x.shape[:-1], 1), generator=rng, device=x.device, dtype=torch.float64) < self.p

    def _select(self, x: Tensor, flags: Tensor) -> Tensor:
        """Return f[..., d]: x or x / p in rows that are sent, else zeros."""
        return torch.where(flags, x / self.p if self.unbiased else x, 0.0)
