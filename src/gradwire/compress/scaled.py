"""Scaled: an unbiased operator divided by 1 + omega is contractive with delta = 1 / (1 + omega).

Any Q in U(omega) gives Q / (1 + omega) in B(1 / (1 + omega)) (Shulgin and Richtárik 2022, arXiv:2206.10452; the lemma
is older). The wire format is the inner operator's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from gradwire.compress.protocol import Compressor, Ragged, operate
from gradwire.layout import Layout, Turn
from gradwire.registry import part
from gradwire.vector import Message


@part("scaled", "compressor", example="scaled(randk(density=0.1))")
@dataclass(frozen=True)
class Scaled:
    """Multiply an unbiased operator by 1 / (1 + omega), so that error feedback can use it."""

    compressor: Compressor

    def __post_init__(self) -> None:
        check_part(self.compressor, "scaled")
        if self.compressor.omega(1024) is None:
            raise ValueError(f"scaled takes an unbiased operator, and {self.compressor} is biased: use it as it is")

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """f[..., d] -> u8[..., nbytes(d)], the inner operator's bytes."""
        return self.compressor.encode(x, turn)

    def decode(self, wire: Tensor, d: int) -> Message:
        """u8[..., nbytes(d)] -> the inner operator's vector divided by 1 + omega."""
        return self.compressor.decode(wire, d).times(self._factor(d))

    def apply(self, x: Tensor, turn: Turn) -> Message:
        """f[..., d] -> C(x), as a peer decodes it, in x's dtype."""
        message = operate(self.compressor, x, turn).to(precision(self.compressor))
        return message.times(self._factor(x.shape[-1])).to(x.dtype)

    def nbytes(self, d: int) -> int:
        """Return the number of bytes on the wire."""
        return self.compressor.nbytes(d)

    def omega(self, d: int) -> float | None:
        """Return 0 if the inner operator is exact, else None: it is biased."""
        return 0.0 if self.compressor.omega(d) == 0.0 else None

    def delta(self, d: int) -> float | None:
        """Return 1 / (1 + omega)."""
        return self._factor(d)

    def _factor(self, d: int) -> float:
        return 1 / (1 + (self.compressor.omega(d) or 0.0))


def check_part(compressor: Compressor, who: str) -> None:
    """Check a part of `who` (TypeError: not a compressor; ValueError: its messages differ in length)."""
    if not isinstance(compressor, Compressor):
        raise TypeError(f"{who} is made of compressors, got {compressor!r}")
    if isinstance(compressor, Ragged):
        raise ValueError(f"{who} takes operators whose messages have one length, and those of {compressor} differ")


@lru_cache
def precision(compressor: Compressor) -> torch.dtype:
    """Return the dtype that a compressor decodes to; `apply` calculates in it, to round as a receiver does."""
    turn = Turn(0, 1, 0, Layout(["x"], [(1,)]))
    return compressor.decode(compressor.encode(torch.zeros(1), turn), 1).dense().dtype
