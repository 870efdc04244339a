"""Rand-k: keep k = density * d values at random indices, scaled by d / k or not.

Scaled, it is unbiased with omega = d / k - 1 (Wangni et al. 2018, arXiv:1710.09854). Not scaled, it is contractive with
delta = k / d. Both bounds are equalities for every x. Every worker draws its own support.
Wire: | key: 8 bytes, little-endian | value block (wire/values.py) |; the support is a function of the key
(kernels/support.py), so no index is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.compress import sparse, supports
from gradwire.compress.protocol import check_density, from_omega, kept
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Dense, Message
from gradwire.wire import values as formats

SHORT = 2048
"""Up to this number of elements, multiplying all of them by a mask is faster than gathering and scattering k."""

_ELEMENTWISE = ("bfloat16", "float32", "float64")
"""Formats that round every value by itself and without drawing, so that zeros among the values do not matter."""


@part("randk", "compressor", example="randk(density=0.1)")
@dataclass(frozen=True)
class RandK:
    """Keep density * d random values, at least one; scaled by d / k if `unbiased`, else contractive."""

    density: float
    values: formats.Format = "float32"
    unbiased: bool = True
    draws: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", check_density(self.density))
        formats.check(self.values)
        if self.unbiased not in (True, False):
            raise ValueError(f"unbiased must be true or false, got {self.unbiased!r}")
        if self.unbiased and formats.OMEGA[self.values] is None:
            raise ValueError(
                f"randk promises to be unbiased and {self.values} rounds with a bias; use float32 or natural, "
                "or unbiased=false"
            )

    encode, decode, nbytes = sparse.encode, sparse.decode, sparse.nbytes

    def apply(self, x: Tensor, turn: Turn) -> Message:
        """f[..., d] -> C(x), as a peer decodes it, in x's dtype."""
        if x.numel() <= SHORT and turn.rank == slice(None) and self.values in _ELEMENTWISE:
            d = x.shape[-1]
            return Dense(formats.decoded(x * supports.mask(turn, x, self.count(d), self.gain(d)), self.values, turn))
        return sparse.apply(self, x, turn)

    def count(self, d: int) -> int:
        """Return the number of d values that are kept."""
        return kept(self.density, d)

    def choose(self, x: Tensor, turn: Turn) -> Tensor:
        """f[..., d] -> int64[..., k], increasing indices, drawn independently for every row."""
        d = x.shape[-1]
        return supports.draw(turn, x.shape[:-1], d, self.count(d), x.device)

    def encode_indices(self, indices: Tensor, d: int, turn: Turn) -> Tensor:
        """int64[..., k] -> u8[..., 8]: the key from which this turn drew them."""
        return supports.keys(turn, indices.shape[:-1], indices.device).unsqueeze(-1).view(torch.uint8)

    def decode_indices(self, wire: Tensor, d: int) -> Tensor:
        """u8[..., 8] -> int64[..., k]."""
        key = wire.clone(memory_format=torch.contiguous_format).view(torch.int64).squeeze(-1)
        return kernels.support(key, d, self.count(d))

    def index_nbytes(self, d: int) -> int:
        """Return 8, the bytes of the key."""
        return 8

    def gain(self, d: int) -> float:
        """Return d / k if unbiased, else 1."""
        return d / self.count(d) if self.unbiased and d else 1.0

    def omega(self, d: int) -> float | None:
        """Return (1 + the format's omega) d / k - 1 if unbiased, else None."""
        fraction = self.count(d) / d if d else 1.0
        return (1 + (formats.OMEGA[self.values] or 0.0)) / fraction - 1 if self.unbiased else None

    def delta(self, d: int) -> float | None:
        """Return k / d times the format's contraction if not scaled; if unbiased, 1 - omega if positive, else None."""
        omega = self.omega(d)
        if omega is not None:
            return from_omega(omega)
        return formats.delta(self.values, self.count(d)) * (self.count(d) / d if d else 1.0)
