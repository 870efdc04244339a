"""Natural compression: round to a random neighbouring power of two.

Unbiased with omega = 1/8, which is attained at |t| = 4/3 * 2^j (Horváth et al. 2019, arXiv:1905.10988, Theorem 3).
Wire: d bytes of exponent, then ceil(d / 8) bytes of sign, least bit first: 9 bits a value (wire/values.py).
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
    """Send sign and exponent of every value, 9 bits. No parameters."""

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """f[..., d] -> u8[..., d + ceil(d / 8)]."""
        return formats.encode(x, "natural", turn.key(shared=False))

    def decode(self, wire: Tensor, d: int) -> Dense:
        """u8[..., d + ceil(d / 8)] -> Dense f32[..., d]."""
        return Dense(formats.decode(wire, "natural", d))

    def apply(self, x: Tensor, turn: Turn) -> Dense:
        """f[..., d] -> what is decoded, in x's dtype."""
        return Dense(formats.said(x, "natural", turn))

    def nbytes(self, d: int) -> int:
        """Bytes on the wire."""
        return formats.nbytes("natural", d)

    def omega(self, d: int) -> float | None:
        """1/8, for values in the normal float32 range."""
        return formats.OMEGA["natural"]

    def delta(self, d: int) -> float | None:
        """7/8: an unbiased operator with omega < 1 contracts."""
        return formats.delta("natural", d)
