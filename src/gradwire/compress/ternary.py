"""Ternary: |x|_p sign(x_i) with probability |x_i| / |x|_p, else 0. TernGrad at p = inf.

Unbiased with E |Q(x)|^2 = |x|_1 |x|_p, so omega = sup |x|_1 |x|_p / |x|_2^2 - 1: (sqrt(d) - 1) / 2 for p = inf,
sqrt(d) - 1 for p = 2, d - 1 for p = 1. Sources: TernGrad (Wen et al. 2017, arXiv:1705.07878), DIANA (Mishchenko et al.
2019, arXiv:1901.09269). It is dithering of a single level, packed closer.
Wire: | scale: float32 | five signs a byte, 1.6 bits each (wire/trits.py): 0, 1, 2 for -, 0, + |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.compress import norms
from gradwire.compress.protocol import check_length, from_omega
from gradwire.kernels import rounding
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Dense
from gradwire.wire import trits
from gradwire.wire import values as formats


@part("ternary", "compressor", example="ternary")
@dataclass(frozen=True)
class Ternary:
    """Send -, 0 or + for every value, and the p-norm."""

    p: norms.Norm = "inf"

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", norms.check_norm(self.p))

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """Finite f[..., d] -> u8[..., nbytes(d)]."""
        scale, key = norms.scale(x, self.p), turn.key(shared=False)
        if rounding.serves(x):
            wire = rounding.packed(x, scale, 1, key, rounding.TRITS, False)
            wire[..., :4] = formats.encode(scale, "float32")
            return wire
        signs = rounding.linear(x, scale, 1, key)
        return torch.cat([formats.encode(scale, "float32"), trits.pack((signs + 1).byte())], -1)

    def decode(self, wire: Tensor, d: int) -> Dense:
        """u8[..., nbytes(d)] -> Dense f32[..., d]."""
        check_length(self, wire, d)
        return Dense(trits.read(wire, d))

    def apply(self, x: Tensor, turn: Turn) -> Dense:
        """Finite f[..., d] -> what is decoded, in x's dtype."""
        if rounding.serves(x):
            return self.decode(self.encode(x, turn), x.shape[-1])
        scale = norms.scale(x, self.p)
        return Dense(rounding.linear(x, scale, 1, turn.key(shared=False)).float().mul_(scale).to(x.dtype))

    def nbytes(self, d: int) -> int:
        """Bytes on the wire."""
        return 4 + trits.nbytes(d)

    def omega(self, d: int) -> float:
        """sup |x|_1 |x|_p / |x|_2^2 - 1; for p between 2 and inf p = 2's, which bounds it."""
        return norms.product(self.p, d) - 1

    def delta(self, d: int) -> float | None:
        """1 - omega where that is positive, else None: wrap it in `scaled` to make it contractive."""
        return from_omega(self.omega(d))
