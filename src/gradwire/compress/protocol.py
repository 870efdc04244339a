"""What every compressor is, and the one parameter that most of them share."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from gradwire.layout import Turn
from gradwire.vector import Message


@runtime_checkable
class Compressor(Protocol):
    """A frozen dataclass of hyperparameters; its repr is its spec.

    `decode(encode(x, turn), d)` is the operator C applied to x, exactly: what a peer decodes is what the sender knows
    it has said.
    """

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """Finite f32|f64[..., d] -> u8[..., nbytes(d)]."""
        ...

    def decode(self, wire: Tensor, d: int) -> Message:
        """u8[..., nbytes(d)] -> vector of dimension d. Raises ValueError for bytes of another length."""
        ...

    def nbytes(self, d: int) -> int:
        """Bytes on the wire; both ends know it without a header."""
        ...

    def omega(self, d: int) -> float | None:
        """Relative variance if unbiased: E C(x) = x and E |C(x) - x|^2 <= omega |x|^2. None if biased."""
        ...

    def delta(self, d: int) -> float | None:
        """Contraction: E |C(x) - x|^2 <= (1 - delta) |x|^2. None if it may expand."""
        ...


def check_density(density: float) -> float:
    """Return a density as a plain float, whose repr is a spec; refuse what is not a number in (0, 1]."""
    if isinstance(density, bool) or not isinstance(density, int | float) or not 0 < density <= 1:
        raise ValueError(f"density must lie in (0, 1], got {density}")
    return float(density)


def kept(density: float, d: int) -> int:
    """Elements kept out of d: the density's share rounded down, at least one, none of an empty vector."""
    return min(d, max(1, int(density * d)))


def from_omega(omega: float) -> float | None:
    """Contraction of an unbiased operator, delta = 1 - omega where that is positive."""
    return 1 - omega if omega < 1 else None
