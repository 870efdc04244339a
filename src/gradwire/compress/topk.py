"""Top-k: keep the k = density * d largest magnitudes.

Biased, contractive with delta = k / d; equality for a vector of equal magnitudes (Stich et al. 2018, arXiv:1809.07599).
Wire: | index block (wire/index.py) | value block (wire/values.py) |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gradwire import kernels
from gradwire.compress import sparse
from gradwire.compress.protocol import check_density, kept
from gradwire.kernels import Accumulated
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.wire import values as formats


@part("topk", "compressor", example="topk(density=0.01, values='natural')")
@dataclass(frozen=True)
class TopK:
    """Keep the density * d largest magnitudes, at least one."""

    density: float
    values: formats.Format = "float32"
    draws: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", check_density(self.density))
        formats.check(self.values)

    encode, decode, apply, nbytes = sparse.encode, sparse.decode, sparse.apply, sparse.nbytes
    encode_indices, decode_indices, index_nbytes = sparse.encode_indices, sparse.decode_indices, sparse.index_nbytes
    gain, omega = sparse.unscaled, sparse.biased

    def count(self, d: int) -> int:
        """Return the number of d values that are kept."""
        return kept(self.density, d)

    def choose(self, x: Tensor | Accumulated, turn: Turn) -> Tensor:
        """f[..., d] -> int64[..., k], the increasing indices of the largest magnitudes."""
        return kernels.topk(x, self.count(kernels.values(x).shape[-1]))

    def wants_largest(self, turn: Turn) -> int:
        """Return k."""
        return self.count(turn.layout.d)

    def delta(self, d: int) -> float | None:
        """Return k / d times the contraction of the value format."""
        return formats.delta(self.values, self.count(d)) * (self.count(d) / d if d else 1.0)
