"""Scaled: an unbiased operator divided by 1 + omega contracts, with delta = 1 / (1 + omega).

Any Q in U(omega) gives Q / (1 + omega) in B(1 / (1 + omega)) (Shulgin and Richtárik 2022, arXiv:2206.10452; the lemma
is older). The wire is the inner operator's.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gradwire.compress.protocol import Compressor
from gradwire.layout import Turn
from gradwire.vector import Message


@dataclass(frozen=True)
class Scaled:
    """Shrink an unbiased operator by 1 / (1 + omega) so that error feedback may use it."""

    compressor: Compressor

    def __post_init__(self) -> None:
        if self.compressor.omega(1024) is None:
            raise ValueError(f"scaled takes an unbiased operator, and {self.compressor} is biased: use it as it is")

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """f[..., d] -> u8[..., nbytes(d)], the inner operator's bytes."""
        return self.compressor.encode(x, turn)

    def decode(self, wire: Tensor, d: int) -> Message:
        """u8[..., nbytes(d)] -> the inner operator's vector over 1 + omega."""
        return self.compressor.decode(wire, d).times(1 / (1 + (self.compressor.omega(d) or 0.0)))

    def nbytes(self, d: int) -> int:
        """Bytes on the wire."""
        return self.compressor.nbytes(d)

    def omega(self, d: int) -> float | None:
        """None: biased, unless the inner operator is exact."""
        return 0.0 if self.compressor.omega(d) == 0.0 else None

    def delta(self, d: int) -> float | None:
        """1 / (1 + omega)."""
        return 1 / (1 + (self.compressor.omega(d) or 0.0))
