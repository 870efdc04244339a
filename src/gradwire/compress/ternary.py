"""Ternary: |x|_p sign(x_i) with probability |x_i| / |x|_p, else 0. TernGrad at p = inf.

Unbiased with E |Q(x)|^2 = |x|_1 |x|_p, so omega = sup |x|_1 |x|_p / |x|_2^2 - 1: (sqrt(d) - 1) / 2 for p = inf,
sqrt(d) - 1 for p = 2, d - 1 for p = 1. Sources: TernGrad (Wen et al. 2017, arXiv:1705.07878), DIANA (Mishchenko et al.
2019, arXiv:1901.09269). It is dithering with a single level, packed more tightly.
Wire: | scale: float32 | five signs per byte, 1.6 bits each (wire/trits.py): 0, 1, 2 for -, 0, + |
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gradwire.compress import norms
from gradwire.compress.protocol import check_length, from_omega
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Dense
from gradwire.wire import trits


@part("ternary", "compressor", example="ternary")
@dataclass(frozen=True)
class Ternary:
    """Send -, 0 or + for every value, and the p-norm."""

    p: norms.Norm = "inf"

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", norms.check_norm(self.p))

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """Finite f[..., d] -> u8[..., nbytes(d)]."""
        return trits.draw(x, norms.scale(x, self.p), turn.key(shared=False))

    def decode(self, wire: Tensor, d: int) -> Dense:
        """u8[..., nbytes(d)] -> Dense f32[..., d]."""
        check_length(self, wire, d)
        return Dense(trits.read(wire, d))

    def apply(self, x: Tensor, turn: Turn) -> Dense:
        """Finite f[..., d] -> C(x), as a peer decodes it, in x's dtype."""
        return Dense(trits.decoded(x, norms.scale(x, self.p), turn.key(shared=False)))

    def nbytes(self, d: int) -> int:
        """Return the number of bytes on the wire."""
        return 4 + trits.nbytes(d)

    def omega(self, d: int) -> float:
        """Return sup |x|_1 |x|_p / |x|_2^2 - 1; for p between 2 and inf its bound, the value for p = 2."""
        return norms.product(self.p, d) - 1

    def delta(self, d: int) -> float | None:
        """Return 1 - omega if that is positive, else None; `scaled` makes it contractive."""
        return from_omega(self.omega(d))
