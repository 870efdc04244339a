"""Rand-k: keep k = density * d values at random places, scaled by d / k.

Unbiased with omega = d / k - 1, with equality for every x (Wangni et al. 2018, arXiv:1710.09854). Every worker draws
its own support. Wire: | key: 8 bytes, little-endian | value block (wire/values.py) |; the support is a function of the
key (kernels/support.py), so no index is sent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.compress.protocol import check_density, from_omega, kept
from gradwire.layout import Turn
from gradwire.vector import Sparse
from gradwire.wire import values as formats


@dataclass(frozen=True)
class RandK:
    """Keep random values, scaled up to stay unbiased: density * d of them, at least one, at places of one's own."""

    density: float
    values: formats.Format = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", check_density(self.density))
        formats.check(self.values)
        if formats.OMEGA[self.values] is None:
            raise ValueError(
                f"randk promises to be unbiased and {self.values} rounds with a bias; use float32 or natural"
            )

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """f[..., d] -> u8[..., nbytes(d)]; with leading axes every row draws a support of its own."""
        d = x.shape[-1]
        k = kept(self.density, d)
        rows = torch.arange(x.shape[:-1].numel(), device=x.device).view(x.shape[:-1])
        key = turn.key(shared=False) + rows
        values = x.gather(-1, kernels.support(key, d, k)) * (d / max(k, 1))
        block = formats.encode(values, self.values, turn.fork("values").rng(shared=False, device=x.device))
        return torch.cat([key.unsqueeze(-1).view(torch.uint8), block], -1)

    def decode(self, wire: Tensor, d: int) -> Sparse:
        """u8[..., nbytes(d)] -> Sparse with k entries."""
        k = kept(self.density, d)
        if wire.shape[-1] != self.nbytes(d):
            raise ValueError(f"{self} in dimension {d} takes {self.nbytes(d)} bytes, got {wire.shape[-1]}")
        values = formats.decode(wire[..., 8:], self.values, k)
        key = wire[..., :8].clone(memory_format=torch.contiguous_format).view(torch.int64).squeeze(-1)
        return Sparse(kernels.support(key, d, k), values, d)

    def nbytes(self, d: int) -> int:
        """Bytes on the wire."""
        return 8 + formats.nbytes(self.values, kept(self.density, d))

    def omega(self, d: int) -> float | None:
        """d / k - 1; the format's own variance multiplies what is kept."""
        share = kept(self.density, d) / d if d else 1.0
        return (1 + (formats.OMEGA[self.values] or 0.0)) / share - 1

    def delta(self, d: int) -> float | None:
        """1 - omega where that is positive, else None: wrap it in `scaled` to make it contractive."""
        return from_omega(self.omega(d) or 0.0)
