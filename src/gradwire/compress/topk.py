"""Top-k: keep the k = density * d largest magnitudes.

Biased, contractive with delta = k / d; equality for a vector of equal magnitudes (Stich et al. 2018, arXiv:1809.07599).
Wire: | index block (wire/index.py) | value block (wire/values.py) |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.compress.protocol import check_density, kept, pick
from gradwire.kernels import Accumulated
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Sparse
from gradwire.wire import index
from gradwire.wire import values as formats


@part("topk", "compressor", example="topk(density=0.01, values='natural')")
@dataclass(frozen=True)
class TopK:
    """Keep the largest magnitudes: density * d of them, at least one."""

    density: float
    values: formats.Format = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", check_density(self.density))
        formats.check(self.values)

    def encode(self, x: Tensor | Accumulated, turn: Turn) -> Tensor:
        """f[..., d] -> u8[..., nbytes(d)]."""
        places, values = pick(self, x, turn)
        block = formats.encode(values, self.values, turn.key(shared=False))
        return torch.cat([self.head(places, kernels.values(x).shape[-1], turn), block], -1)

    def decode(self, wire: Tensor, d: int) -> Sparse:
        """u8[..., nbytes(d)] -> Sparse with k entries."""
        split = self.head_nbytes(d)
        places = self.places(wire[..., :split], d)
        return Sparse(places, formats.decode(wire[..., split:], self.values, self.count(d)), d)

    def apply(self, x: Tensor, turn: Turn) -> Sparse:
        """f[..., d] -> what is decoded, in x's dtype."""
        places, values = pick(self, x, turn)
        return Sparse(places, formats.said(values, self.values, turn), x.shape[-1])

    def wants_largest(self, turn: Turn) -> int:
        """k."""
        return self.count(turn.layout.d)

    def choose(self, x: Tensor | Accumulated, turn: Turn) -> Tensor:
        """f[..., d] -> int64[..., k], increasing places of the largest magnitudes."""
        return kernels.topk(x, self.count(kernels.values(x).shape[-1]))

    def head(self, places: Tensor, d: int, turn: Turn) -> Tensor:
        """int64[..., k] -> u8[..., head_nbytes(d)]: the index block."""
        return index.encode(places, d)

    def places(self, head: Tensor, d: int) -> Tensor:
        """u8[..., head_nbytes(d)] -> int64[..., k]."""
        return index.decode(head, d, self.count(d))

    def count(self, d: int) -> int:
        """How many of d values are kept."""
        return kept(self.density, d)

    def head_nbytes(self, d: int) -> int:
        """Bytes that say the places."""
        return index.nbytes(d, self.count(d))

    def gain(self, d: int) -> float:
        """1: values are sent as they are."""
        return 1.0

    def nbytes(self, d: int) -> int:
        """Bytes on the wire."""
        return self.head_nbytes(d) + formats.nbytes(self.values, self.count(d))

    def omega(self, d: int) -> float | None:
        """None: biased, unless it keeps everything."""
        return formats.OMEGA[self.values] if self.count(d) == d else None

    def delta(self, d: int) -> float | None:
        """k / d, times the contraction of the value format."""
        return formats.delta(self.values, self.count(d)) * (self.count(d) / d if d else 1.0)
