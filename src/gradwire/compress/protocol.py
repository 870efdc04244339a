"""The protocols of compressors, and helpers for densities."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar, Protocol, cast, runtime_checkable

from torch import Tensor

from gradwire.checks import is_number
from gradwire.layout import Turn
from gradwire.vector import Message
from gradwire.wire.values import Format


@runtime_checkable
class Compressor(Protocol):
    """A frozen dataclass of hyperparameters; its repr is its spec.

    `decode(encode(x, turn), d)` is exactly C(x), the operator applied to x, so the sender knows what its peers decode.
    """

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """Finite f32|f64[..., d] -> u8[..., nbytes(d)]."""
        ...

    def decode(self, wire: Tensor, d: int) -> Message:
        """u8[..., nbytes(d)] -> a vector of dimension d (ValueError: another number of bytes)."""
        ...

    def nbytes(self, d: int) -> int:
        """Return the number of bytes on the wire, known without a header; for a `Ragged` compressor the maximum."""
        ...

    def omega(self, d: int) -> float | None:
        """Return the relative variance: E C(x) = x and E |C(x) - x|^2 <= omega |x|^2; None if biased."""
        ...

    def delta(self, d: int) -> float | None:
        """Return the contraction: E |C(x) - x|^2 <= (1 - delta) |x|^2; None if it may expand."""
        ...


@runtime_checkable
class Direct(Protocol):
    """A compressor that can compute C(x) without bytes, for batched mode, which does not serialise."""

    def apply(self, x: Tensor, turn: Turn) -> Message:
        """f[..., d] -> C(x) = `decode(encode(x, turn), d)` in x's dtype; dense or sparse.

        Values are equal, except that a composition may round sums of two parts in another order.
        """
        ...


@runtime_checkable
class Ragged(Protocol):
    """A compressor whose messages' length depends on the vector. `decode` ignores zeros after a message."""

    def length(self, wire: Tensor, d: int) -> int:
        """Return the bytes of the message at the start of u8[m]; for several messages u8[..., m] the largest."""
        ...


@runtime_checkable
class Sparsifier(Protocol):
    """The half of a compressor that selects values and encodes their indices; sparse.py sends the values.

    `chain` uses this half, and sends the values by another compressor.
    """

    draws: ClassVar[bool]
    """Whether `choose` draws from the turn; the rounding of the values then draws from a fork of it."""

    @property
    def values(self) -> Format:
        """The format in which the values are sent."""
        ...

    def count(self, d: int) -> int:
        """Return the number of d values that are kept."""
        ...

    def choose(self, x: Tensor, turn: Turn) -> Tensor:
        """f[..., d] -> int64[..., count(d)], increasing. A `Selective` sparsifier also accepts an `Accumulated`."""
        ...

    def encode_indices(self, indices: Tensor, d: int, turn: Turn) -> Tensor:
        """Encode the indices chosen on this turn, int64[..., count(d)] -> u8[..., index_nbytes(d)]."""
        ...

    def decode_indices(self, wire: Tensor, d: int) -> Tensor:
        """u8[..., index_nbytes(d)] -> int64[..., count(d)]."""
        ...

    def index_nbytes(self, d: int) -> int:
        """Return the number of bytes of the index block."""
        ...

    def gain(self, d: int) -> float:
        """Return the factor of the kept values: 1 for a projection, above 1 to be unbiased."""
        ...

    def omega(self, d: int) -> float | None:
        """Return the relative variance, like `Compressor.omega`."""
        ...

    def delta(self, d: int) -> float | None:
        """Return the contraction, like `Compressor.delta`."""
        ...


def operate(compressor: Compressor, x: Tensor, turn: Turn) -> Message:
    """f[..., d] -> C(x), without bytes if the compressor is `Direct`."""
    if _is_direct(type(compressor)):
        return cast(Direct, compressor).apply(x, turn)
    return compressor.decode(compressor.encode(x, turn), x.shape[-1])


def check_length(compressor: Compressor, wire: Tensor, d: int) -> None:
    """Raise ValueError if a message u8[..., m] does not have the compressor's length in dimension d."""
    if wire.shape[-1] != compressor.nbytes(d):
        raise ValueError(f"{compressor} in dimension {d} takes {compressor.nbytes(d)} bytes, got {wire.shape[-1]}")


@lru_cache
def _is_direct(kind: type) -> bool:
    """Whether a class is `Direct`; cached, because a protocol check takes longer than compressing a short vector."""
    return issubclass(kind, Direct)


def check_density(density: float) -> float:
    """Return a density as a float, whose repr is a spec (ValueError: it is not a number in (0, 1])."""
    if not is_number(density) or not 0 < density <= 1:
        raise ValueError(f"density must lie in (0, 1], got {density}")
    return float(density)


def kept(density: float, d: int) -> int:
    """Return k, the number of d elements that are kept: density * d rounded down, at least one if d > 0."""
    return min(d, max(1, int(density * d)))


def from_omega(omega: float) -> float | None:
    """Return the contraction of an unbiased operator: 1 - omega if that is positive, else None."""
    return 1 - omega if omega < 1 else None
