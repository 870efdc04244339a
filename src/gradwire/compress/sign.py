"""Scaled sign: the mean magnitude |x|_1 / d with every value's sign, one bit a value.

Biased, contractive with delta = 1 / d (EF-signSGD, Karimireddy et al. 2019, arXiv:1901.09847), which a single spike
attains; on a given x it is |x|_1^2 / (d |x|_2^2), about 2 / pi for normal values:
    |C(x) - x|^2 = |x|^2 - 2 c <sign(x), x> + d c^2 = |x|_2^2 - |x|_1^2 / d    with c = |x|_1 / d,
also where zeros are sent as +, for a zero adds nothing to the product and c^2 to d c^2 either way.
Wire: | c: float32 | ceil(d / 8) bytes: is it negative? least bit first |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.compress.protocol import check_length
from gradwire.kernels import rounding
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Dense
from gradwire.wire import bits
from gradwire.wire import values as formats


@part("scaledsign", "compressor", example="ef(scaledsign)")
@dataclass(frozen=True)
class ScaledSign:
    """Send every value's sign and their mean magnitude. No parameters."""

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """Finite f[..., d] -> u8[..., nbytes(d)]."""
        if rounding.serves(x):
            wire, total = rounding.signs(x)
            wire[..., :4] = formats.encode(total.div_(max(x.shape[-1], 1)), "float32")
            return wire
        return torch.cat([formats.encode(_mean(x), "float32"), bits.pack_flags((x < 0).byte())], -1)

    def decode(self, wire: Tensor, d: int) -> Dense:
        """u8[..., nbytes(d)] -> Dense f32[..., d]."""
        check_length(self, wire, d)
        scale = formats.decode(wire[..., :4], "float32", 1)
        return Dense(rounding.signed(wire, scale, d))

    def apply(self, x: Tensor, turn: Turn) -> Dense:
        """Finite f[..., d] -> what is decoded, in x's dtype."""
        if rounding.serves(x):
            return self.decode(self.encode(x, turn), x.shape[-1])
        scale = formats.said(_mean(x), "float32", turn).to(x.dtype)
        return Dense(torch.where(x < 0, -scale, scale))

    def nbytes(self, d: int) -> int:
        """Bytes on the wire."""
        return 4 + bits.nbytes(d, 1)

    def omega(self, d: int) -> float | None:
        """None: biased."""
        return None

    def delta(self, d: int) -> float | None:
        """1 / d, the worst case."""
        return 1 / max(d, 1)


def _mean(x: Tensor) -> Tensor:
    """f[..., d] -> f64[..., 1]: the mean magnitude, 0 of an empty vector."""
    return x.abs().sum(-1, keepdim=True, dtype=torch.float64) / max(x.shape[-1], 1)
