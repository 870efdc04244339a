"""Top-k: keep the k = density * d largest magnitudes.

Biased, contractive with delta = k / d; equality for a vector of equal magnitudes (Stich et al. 2018, arXiv:1809.07599).
Wire: | index block (wire/index.py) | value block (wire/values.py) |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.compress.protocol import check_density, kept
from gradwire.layout import Turn
from gradwire.vector import Sparse
from gradwire.wire import index
from gradwire.wire import values as formats


@dataclass(frozen=True)
class TopK:
    """Keep the largest magnitudes: density * d of them, at least one."""

    density: float
    values: formats.Format = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", check_density(self.density))
        formats.check(self.values)

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """f[..., d] -> u8[..., nbytes(d)]."""
        indices = kernels.top(x, kept(self.density, x.shape[-1]))
        values = formats.encode(x.gather(-1, indices), self.values, turn.rng(shared=False, device=x.device))
        return torch.cat([index.encode(indices, x.shape[-1]), values], -1)

    def decode(self, wire: Tensor, d: int) -> Sparse:
        """u8[..., nbytes(d)] -> Sparse with k entries."""
        k = kept(self.density, d)
        split = index.nbytes(d, k)
        indices = index.decode(wire[..., :split], d, k)
        return Sparse(indices, formats.decode(wire[..., split:], self.values, k), d)

    def nbytes(self, d: int) -> int:
        """Bytes on the wire."""
        k = kept(self.density, d)
        return index.nbytes(d, k) + formats.nbytes(self.values, k)

    def omega(self, d: int) -> float | None:
        """None: biased, unless it keeps everything."""
        return formats.OMEGA[self.values] if kept(self.density, d) == d else None

    def delta(self, d: int) -> float | None:
        """k / d, times the contraction of the value format."""
        return formats.DELTA[self.values] * (kept(self.density, d) / d if d else 1.0)
