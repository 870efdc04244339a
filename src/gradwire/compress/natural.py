"""Natural compression: round to a random neighbouring power of two.

Unbiased with omega = 1/8, which is attained at |t| = 4/3 * 2^j (Horváth et al. 2019, arXiv:1905.10988, Theorem 3).
Wire: d bytes of exponent, then ceil(d / 8) bytes of sign, least bit first: 9 bits per value (wire/values.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Dense
from gradwire.wire import values as formats


@part("natural", "compressor", example="natural")
@dataclass(frozen=True)
class Natural:
    """Send the sign and the exponent of every value, 9 bits. No parameters."""

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """f[..., d] -> u8[..., d + ceil(d / 8)]."""
        return formats.encode(x, "natural", turn.key(shared=False))

    def decode(self, wire: Tensor, d: int) -> Dense:
        """u8[..., d + ceil(d / 8)] -> Dense f32[..., d]."""
        return Dense(formats.decode(wire, "natural", d))

    def apply(self, x: Tensor, turn: Turn) -> Dense:
        """f[..., d] -> C(x), as a peer decodes it, in x's dtype."""
        return Dense(formats.decoded(x, "natural", turn))

    def nbytes(self, d: int) -> int:
        """Return the number of bytes on the wire."""
        return formats.nbytes("natural", d)

    def omega(self, d: int) -> float | None:
        """Return 1/8, which holds for values in the normal float32 range."""
        return formats.OMEGA["natural"]

    def delta(self, d: int) -> float | None:
        """Return 7/8: an unbiased operator with omega < 1 is contractive with delta = 1 - omega."""
        return formats.delta("natural", d)
