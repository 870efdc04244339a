"""Scaled sign: the mean magnitude |x|_1 / d with every value's sign, one bit per value.

Biased, contractive with delta = 1 / d (EF-signSGD, Karimireddy et al. 2019, arXiv:1901.09847), attained by a vector
with one nonzero value. For a given x the contraction is |x|_1^2 / (d |x|_2^2), about 2 / pi for normal values:
    |C(x) - x|^2 = |x|^2 - 2 c <sign(x), x> + d c^2 = |x|_2^2 - |x|_1^2 / d    with c = |x|_1 / d,
also if zeros are sent as +, because a zero adds nothing to the inner product, and c^2 to d c^2 with either sign.
Wire: | c: float32 | ceil(d / 8) bytes: 1 for negative values, least bit first | (wire/signs.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gradwire.compress.protocol import check_length
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Dense
from gradwire.wire import signs


@part("scaledsign", "compressor", example="ef(scaledsign)")
@dataclass(frozen=True)
class ScaledSign:
    """Send every value's sign, and the mean magnitude. No parameters."""

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """Finite f[..., d] -> u8[..., nbytes(d)]."""
        return signs.encode(x)

    def decode(self, wire: Tensor, d: int) -> Dense:
        """u8[..., nbytes(d)] -> Dense f32[..., d]."""
        check_length(self, wire, d)
        return Dense(signs.decode(wire, d))

    def apply(self, x: Tensor, turn: Turn) -> Dense:
        """Finite f[..., d] -> C(x), as a peer decodes it, in x's dtype."""
        return Dense(signs.decoded(x))

    def nbytes(self, d: int) -> int:
        """Return the number of bytes on the wire."""
        return signs.nbytes(d)

    def omega(self, d: int) -> float | None:
        """Return None: it is biased."""
        return None

    def delta(self, d: int) -> float | None:
        """Return 1 / d, the worst case."""
        return 1 / max(d, 1)
