"""Natural dithering: round every magnitude at random to a neighbour among |x|_p times 0, 2^(1-s), ..., 1/2, 1.

Unbiased (Horváth et al. 2019, arXiv:1905.10988, Theorem 7): with t = 2^(1-s) the lowest level and u = |x_i| / |x|_p,
the variance in units of |x|_p^2 is at most u^2 / 8 above t, as natural compression's, and u (t - u) <= min{t u, t^2/4}
below; and s levels vary no more than one, u - u^2. Summed over i:
    omega = min{ 1/8 + t A,  1/8 + t^2 d^(2/r) / 4,  A - 1 },    r = min(p, 2),    A = sup |x|_1 |x|_p / |x|_2^2,
never more than the theorem's 1/8 + d^(1/r) t min{1, d^(1/r) t}.
Wire: | scale: float32 | d codes of ceil(log2(2 s + 1)) bits | (wire/levels.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.compress import norms
from gradwire.compress.protocol import from_omega
from gradwire.kernels import rounding
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Dense
from gradwire.wire import levels


@part("naturaldithering", "compressor", example="naturaldithering(s=8)")
@dataclass(frozen=True)
class NaturalDithering:
    """Send every value as 0 or one of s powers of two of the p-norm and a sign."""

    s: int
    p: norms.Norm = 2.0

    def __post_init__(self) -> None:
        norms.check_levels(self.s, most=127)  # the lowest level is then float32's smallest normal number
        object.__setattr__(self, "p", norms.check_norm(self.p))

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """Finite f[..., d] -> u8[..., nbytes(d)]; code k > 0 is the level 2^(k - s)."""
        return levels.draw(x, norms.scale(x, self.p), self.s, turn.key(shared=False), binary=True)

    def decode(self, wire: Tensor, d: int) -> Dense:
        """u8[..., nbytes(d)] -> Dense f32[..., d]."""
        return Dense(levels.read(wire, self.s, d, self._values))

    def apply(self, x: Tensor, turn: Turn) -> Dense:
        """Finite f[..., d] -> what is decoded, in x's dtype."""
        if rounding.serves(x):
            return self.decode(self.encode(x, turn), x.shape[-1])
        scale = norms.scale(x, self.p)
        return Dense(self._values(scale, rounding.geometric(x, scale, self.s, turn.key(shared=False))).to(x.dtype))

    def nbytes(self, d: int) -> int:
        """Bytes on the wire."""
        return levels.nbytes(self.s, d)

    def omega(self, d: int) -> float:
        """The smallest of the three bounds above."""
        lowest, product = 2.0 ** (1 - self.s), norms.product(self.p, d)
        below = min(lowest * product, (lowest * norms.root(self.p, d)) ** 2 / 4)
        return min(1 / 8 + below, product - 1)

    def delta(self, d: int) -> float | None:
        """1 - omega where that is positive, else None: wrap it in `scaled` to make it contractive."""
        return from_omega(self.omega(d))

    def _values(self, scale: Tensor, codes: Tensor) -> Tensor:
        # An exponent in the float's own field and an empty mantissa is the power of two.
        power = ((codes.abs().int() + (127 - self.s)) << 23).view(torch.float32)
        return power.mul_(codes.sign()).mul_(scale)
