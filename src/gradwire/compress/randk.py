"""Rand-k: keep k = density * d values at random indices, scaled by d / k or not.

Scaled, it is unbiased with omega = d / k - 1, with equality for every x (Wangni et al. 2018, arXiv:1710.09854). Not
scaled, it contracts with delta = k / d, with equality too. Every worker draws its own support. Wire: | key: 8 bytes,
little-endian | value block (wire/values.py) |; the support is a function of the key (kernels/support.py), so no index
is sent.
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
"""Elements up to which one pass over all of them is quicker than to pick k and put them back."""

_ONE_BY_ONE = ("bfloat16", "float32", "float64")
"""Formats that round a value without drawing and without regard to the others, so that zeros among them do no harm."""


@part("randk", "compressor", example="randk(density=0.1)")
@dataclass(frozen=True)
class RandK:
    """Keep density * d random values, at least one; scaled by d / k to be unbiased, or not, to contract."""

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
        """f[..., d] -> what is decoded, in x's dtype."""
        if x.numel() <= SHORT and turn.rank == slice(None) and self.values in _ONE_BY_ONE:
            d = x.shape[-1]
            return Dense(formats.said(x * supports.mask(turn, x, self.count(d), self.gain(d)), self.values, turn))
        return sparse.apply(self, x, turn)

    def count(self, d: int) -> int:
        """How many of d values are kept."""
        return kept(self.density, d)

    def choose(self, x: Tensor, turn: Turn) -> Tensor:
        """f[..., d] -> int64[..., k], increasing indices, in every row its own."""
        d = x.shape[-1]
        return supports.draw(turn, x.shape[:-1], d, self.count(d), x.device)

    def encode_indices(self, indices: Tensor, d: int, turn: Turn) -> Tensor:
        """int64[..., k] -> u8[..., 8]: the key that this turn chose them by."""
        return supports.keys(turn, indices.shape[:-1], indices.device).unsqueeze(-1).view(torch.uint8)

    def decode_indices(self, wire: Tensor, d: int) -> Tensor:
        """u8[..., 8] -> int64[..., k]."""
        key = wire.clone(memory_format=torch.contiguous_format).view(torch.int64).squeeze(-1)
        return kernels.support(key, d, self.count(d))

    def index_nbytes(self, d: int) -> int:
        """Bytes of the key."""
        return 8

    def gain(self, d: int) -> float:
        """d / k if unbiased."""
        return d / self.count(d) if self.unbiased and d else 1.0

    def omega(self, d: int) -> float | None:
        """d / k - 1 if unbiased; the format's own variance multiplies what is kept."""
        share = self.count(d) / d if d else 1.0
        return (1 + (formats.OMEGA[self.values] or 0.0)) / share - 1 if self.unbiased else None

    def delta(self, d: int) -> float | None:
        """If unbiased 1 - omega where that is positive, else k / d times the contraction of the value format."""
        omega = self.omega(d)
        if omega is not None:
            return from_omega(omega)
        return formats.delta(self.values, self.count(d)) * (self.count(d) / d if d else 1.0)
