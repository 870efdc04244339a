"""Identity: send everything. Wire: the values in the chosen format (wire/values.py)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Dense
from gradwire.wire import values as formats


@part("identity", "compressor", example="identity(values='bfloat16')")
@dataclass(frozen=True)
class Identity:
    """Send every value, in float32 or another format."""

    values: formats.Format = "float32"

    def __post_init__(self) -> None:
        formats.check(self.values)

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """f[..., d] -> u8[..., nbytes(d)]."""
        return formats.encode(x, self.values, turn.key(shared=False))

    def decode(self, wire: Tensor, d: int) -> Dense:
        """u8[..., nbytes(d)] -> Dense f[..., d]."""
        return Dense(formats.decode(wire, self.values, d))

    def apply(self, x: Tensor, turn: Turn) -> Dense:
        """f[..., d] -> C(x), as a peer decodes it, in x's dtype."""
        return Dense(formats.decoded(x, self.values, turn))

    def nbytes(self, d: int) -> int:
        """Return the number of bytes on the wire."""
        return formats.nbytes(self.values, d)

    def omega(self, d: int) -> float | None:
        """Return the format's omega, 0 for float32."""
        return formats.OMEGA[self.values]

    def delta(self, d: int) -> float | None:
        """Return the format's delta, 1 for float32."""
        return formats.delta(self.values, d)
