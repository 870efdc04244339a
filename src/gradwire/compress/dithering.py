"""Standard dithering: round every magnitude at random to one of two neighbouring multiples of |x|_p / s.

QSGD at p = 2 (Alistarh et al. 2017, arXiv:1610.02132); other norms in Horváth et al. 2019, arXiv:1905.10988. Unbiased.
With u = s |x_i| / |x|_p between the levels l and l + 1, the variance in units of (|x|_p / s)^2 is (u - l)(l + 1 - u).
That is at most 1/4, and at most u / (l + 1) (l + 1 - u) <= u - u^2 / s. Summed over i:
    omega = min{ d^(2/r) / (4 s^2),  (A - 1) / s },    r = min(p, 2),    A = sup |x|_1 |x|_p / |x|_2^2,
which is at most the papers' d^(1/r) / s min{1, d^(1/r) / s}, and attained at s = 1 for p <= 2 and p = inf.
Wire: | scale: float32 | d codes of ceil(log2(2 s + 1)) bits | (wire/levels.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gradwire.compress import norms
from gradwire.compress.protocol import from_omega
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Dense
from gradwire.wire import levels


@part("dithering", "compressor", example="dithering(s=16)")
@dataclass(frozen=True)
class Dithering:
    """Send every value as a sign and one of the levels 0, 1/s, ..., 1 times the p-norm."""

    s: int
    p: norms.Norm = 2.0

    def __post_init__(self) -> None:
        norms.check_levels(self.s, most=1 << 23)  # float32 cannot distinguish more
        object.__setattr__(self, "p", norms.check_norm(self.p))

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """Finite f[..., d] -> u8[..., nbytes(d)]."""
        return levels.draw(x, norms.scale(x, self.p), self.s, turn.key(shared=False))

    def decode(self, wire: Tensor, d: int) -> Dense:
        """u8[..., nbytes(d)] -> Dense f32[..., d]."""
        return Dense(levels.read(wire, self.s, d, self._values))

    def apply(self, x: Tensor, turn: Turn) -> Dense:
        """Finite f[..., d] -> C(x), as a peer decodes it, in x's dtype."""
        scale, key = norms.scale(x, self.p), turn.key(shared=False)
        return Dense(levels.decoded(x, scale, self.s, key, self._values))

    def nbytes(self, d: int) -> int:
        """Return the number of bytes on the wire."""
        return levels.nbytes(self.s, d)

    def omega(self, d: int) -> float:
        """Return the smaller of the two bounds in the module's docstring."""
        return min(norms.root(self.p, d) ** 2 / (4 * self.s**2), (norms.product(self.p, d) - 1) / self.s)

    def delta(self, d: int) -> float | None:
        """Return 1 - omega if that is positive, else None; `scaled` makes it contractive."""
        return from_omega(self.omega(d))

    def _values(self, scale: Tensor, signed: Tensor) -> Tensor:
        # Divide first: the largest scale times s would overflow float32.
        return signed.float().div_(self.s).mul_(scale)
