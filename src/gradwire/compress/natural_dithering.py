"""Natural dithering: round every magnitude at random to a neighbour among |x|_p times 0, 2^(1-s), ..., 1/2, 1.

Unbiased (Horváth et al. 2019, arXiv:1905.10988, Theorem 7): with t = 2^(1-s) the lowest level and u = |x_i| / |x|_p,
the variance in units of |x|_p^2 is at most u^2 / 8 above t, as in natural compression, and u (t - u) <= min{t u, t^2/4}
below t; and it is at most that of a single level, u - u^2. Summed over i:
    omega = min{ 1/8 + t A,  1/8 + t^2 d^(2/r) / 4,  A - 1 },    r = min(p, 2),    A = sup |x|_1 |x|_p / |x|_2^2,
which is at most the theorem's 1/8 + d^(1/r) t min{1, d^(1/r) t}.
Wire: | scale: float32 | d codes of ceil(log2(2 s + 1)) bits | (wire/levels.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.compress import norms
from gradwire.compress.protocol import from_omega
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Dense
from gradwire.wire import levels


@part("naturaldithering", "compressor", example="naturaldithering(s=8)")
@dataclass(frozen=True)
class NaturalDithering:
    """Send every value as a sign and 0 or one of s powers of two times the p-norm."""

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
        """Finite f[..., d] -> C(x), as a peer decodes it, in x's dtype."""
        scale, key = norms.scale(x, self.p), turn.key(shared=False)
        return Dense(levels.decoded(x, scale, self.s, key, self._values, binary=True))

    def nbytes(self, d: int) -> int:
        """Return the number of bytes on the wire."""
        return levels.nbytes(self.s, d)

    def omega(self, d: int) -> float:
        """Return the smallest of the three bounds in the module's docstring."""
        lowest, product = 2.0 ** (1 - self.s), norms.product(self.p, d)
        below = min(lowest * product, (lowest * norms.root(self.p, d)) ** 2 / 4)
        return min(1 / 8 + below, product - 1)

    def delta(self, d: int) -> float | None:
        """Return 1 - omega if that is positive, else None; `scaled` makes it contractive."""
        return from_omega(self.omega(d))

    def _values(self, scale: Tensor, codes: Tensor) -> Tensor:
        # The power of two is a float32 with this exponent field and mantissa 0.
        power = ((codes.abs().int() + (127 - self.s)) << 23).view(torch.float32)
        return power.mul_(codes.sign()).mul_(scale)
