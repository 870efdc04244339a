"""Hard threshold: keep every value of magnitude `level` or more.

Biased. Its error is bounded absolutely, |C(x) - x|^2 <= d level^2, and by |x|^2, so delta = 0. The number of values
sent depends on the vector (Sahu et al. 2021, arXiv:2108.00951).
Wire: | K: uint32 | index block of K (wire/index.py) | K x float32 |, and zeros may follow. Several rows are encoded
with their largest K; rows that keep fewer values also send zeros at their lowest free indices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.checks import is_number
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Dense, Sparse
from gradwire.wire import index
from gradwire.wire import values as formats


@part("hardthreshold", "compressor", example="hardthreshold(level=0.01)")
@dataclass(frozen=True)
class HardThreshold:
    """Keep all values whose magnitude is at least `level`, however many they are."""

    level: float

    def __post_init__(self) -> None:
        if not is_number(self.level) or not 0 < self.level < math.inf:
            raise ValueError(f"level must be a positive finite number, got {self.level!r}")
        object.__setattr__(self, "level", float(self.level))

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """Finite f[..., d] -> u8[..., m], m <= nbytes(d): the length of the row that keeps most values."""
        d = x.shape[-1]
        if x.ndim == 1:
            indices = kernels.indices_above(x, self.level)
            header = torch.tensor([len(indices)], dtype=torch.int64, device=x.device).view(torch.uint8)[:4]
            return torch.cat([header, index.encode(indices, d), formats.encode(x[indices], "float32")])
        kept = x.abs() >= self.level
        counts = kept.sum(-1, keepdim=True)
        k = max(_distinct(counts), default=0)
        large = x.where(kept, 0.0)
        if bool((counts < k).any()):  # rows that keep fewer also send their lowest free indices
            kept = kept | (~kept & ((~kept).cumsum(-1) <= k - counts))
        indices = kept.nonzero()[:, -1].view(*x.shape[:-1], k)
        header = torch.full_like(counts, k).view(torch.uint8)[..., :4]
        return torch.cat([header, index.encode(indices, d), formats.encode(large.gather(-1, indices), "float32")], -1)

    def decode(self, wire: Tensor, d: int) -> Sparse:
        """u8[..., m], m <= nbytes(d) -> Sparse; rows with fewer values are padded with zeros at index 0.

        Raises:
            ValueError: the number of bytes does not fit the counts, or a count is above d.
        """
        counts = _counts(wire, d)
        ks = _distinct(counts)
        most = max(ks, default=0)
        if not _length(d, most) <= wire.shape[-1] <= self.nbytes(d):
            raise ValueError(f"{most} values out of {d} take {_length(d, most)} bytes, got {wire.shape[-1]}")
        indices = torch.zeros((*wire.shape[:-1], most), dtype=torch.int64, device=wire.device)
        values = torch.zeros(indices.shape, device=wire.device)
        for k in ks:
            rows, split = counts == k, 4 + index.nbytes(d, k)
            indices[rows, :k] = index.decode(wire[rows][:, 4:split], d, k)
            values[rows, :k] = formats.decode(wire[rows][:, split : _length(d, k)], "float32", k)
        return Sparse(indices, values, d)

    def apply(self, x: Tensor, turn: Turn) -> Dense:
        """Finite f[..., d] -> C(x), as a peer decodes it, in x's dtype."""
        return Dense(formats.decoded(x.where(x.abs() >= self.level, 0.0), "float32", turn))

    def length(self, wire: Tensor, d: int) -> int:
        """Return the bytes of a message, or of the longest of several (ValueError: the count is missing or above d)."""
        return _length(d, max(_distinct(_counts(wire, d)), default=0))

    def nbytes(self, d: int) -> int:
        """Return the largest number of bytes on the wire, if all values are kept."""
        return _length(d, d)

    def omega(self, d: int) -> float | None:
        """Return None: it is biased."""
        return None

    def delta(self, d: int) -> float | None:
        """Return 0: a projection, but if all values are below the threshold nothing is sent."""
        return 0.0


def _length(d: int, k: int) -> int:
    """Return the bytes of a message that keeps k of d values."""
    return 4 + index.nbytes(d, k) + formats.nbytes("float32", k)


def _counts(wire: Tensor, d: int) -> Tensor:
    """u8[..., m] -> int64[...]: the K at the start of every row (ValueError: it is missing or above d)."""
    if wire.shape[-1] < 4:
        raise ValueError(f"a count takes 4 bytes, got {wire.shape[-1]}")
    counts = torch.nn.functional.pad(wire[..., :4], (0, 4)).view(torch.int64).squeeze(-1)
    if bool((counts > d).any()):
        raise ValueError(f"the bytes say to keep {int(counts.max())} values out of {d}")
    return counts


def _distinct(counts: Tensor) -> list[int]:
    return cast(list[int], counts.unique().tolist())
