"""Protocols of compressors, and the density, which most of them take."""

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

    `decode(encode(x, turn), d)` is exactly the operator C applied to x: the sender knows what its peers decode.
    """

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """Finite f32|f64[..., d] -> u8[..., nbytes(d)]."""
        ...

    def decode(self, wire: Tensor, d: int) -> Message:
        """u8[..., nbytes(d)] -> vector of dimension d. Raises ValueError for bytes of another length."""
        ...

    def nbytes(self, d: int) -> int:
        """Bytes on the wire; both ends know it without a header. For a `Ragged` compressor the maximum."""
        ...

    def omega(self, d: int) -> float | None:
        """Relative variance if unbiased: E C(x) = x and E |C(x) - x|^2 <= omega |x|^2. None if biased."""
        ...

    def delta(self, d: int) -> float | None:
        """Contraction: E |C(x) - x|^2 <= (1 - delta) |x|^2. None if it may expand."""
        ...


@runtime_checkable
class Direct(Protocol):
    """A compressor that can skip its bytes: in batched mode, which does not serialise."""

    def apply(self, x: Tensor, turn: Turn) -> Message:
        """f[..., d] -> C(x), what `decode(encode(x, turn), d)` is in x's dtype; dense or sparse.

        Value for value, except that a composition may round sums of two parts in another order.
        """
        ...


@runtime_checkable
class Ragged(Protocol):
    """A compressor whose messages vary in length with the vector. `decode` ignores zeros behind a message."""

    def length(self, wire: Tensor, d: int) -> int:
        """Bytes of the message at the start of u8[m]; of several messages u8[..., m], those of the longest."""
        ...


@runtime_checkable
class Sparsifier(Protocol):
    """Which values are kept, and how their indices are written. The values themselves are sent alike (sparse.py).

    `chain` takes this half of a compressor and sends the values by another one.
    """

    draws: ClassVar[bool]
    """Whether `choose` draws from the turn: the rounding of the values then draws from a fork of it."""

    @property
    def values(self) -> Format:
        """The format in which the values are sent."""
        ...

    def count(self, d: int) -> int:
        """How many of d values are kept."""
        ...

    def choose(self, x: Tensor, turn: Turn) -> Tensor:
        """f[..., d] -> int64[..., count(d)], increasing indices. A `Selective` one takes an `Accumulated` too."""
        ...

    def encode_indices(self, indices: Tensor, d: int, turn: Turn) -> Tensor:
        """Write what `choose` has chosen on this turn, int64[..., count(d)] -> u8[..., index_nbytes(d)]."""
        ...

    def decode_indices(self, wire: Tensor, d: int) -> Tensor:
        """u8[..., index_nbytes(d)] -> int64[..., count(d)]."""
        ...

    def index_nbytes(self, d: int) -> int:
        """Bytes of the index block."""
        ...

    def gain(self, d: int) -> float:
        """The factor of the kept values: 1 for a projection, more to be unbiased."""
        ...

    def omega(self, d: int) -> float | None:
        """Relative variance if unbiased, as a compressor's."""
        ...

    def delta(self, d: int) -> float | None:
        """Contraction, as a compressor's."""
        ...


def operate(compressor: Compressor, x: Tensor, turn: Turn) -> Message:
    """f[..., d] -> C(x), without bytes if the compressor is `Direct`."""
    if _is_direct(type(compressor)):
        return cast(Direct, compressor).apply(x, turn)
    return compressor.decode(compressor.encode(x, turn), x.shape[-1])


def check_length(compressor: Compressor, wire: Tensor, d: int) -> None:
    """Refuse a message u8[..., m] of another length than the compressor's in dimension d."""
    if wire.shape[-1] != compressor.nbytes(d):
        raise ValueError(f"{compressor} in dimension {d} takes {compressor.nbytes(d)} bytes, got {wire.shape[-1]}")


@lru_cache
def _is_direct(kind: type) -> bool:
    """Cached: a protocol check takes longer than compressing a short vector."""
    return issubclass(kind, Direct)


def check_density(density: float) -> float:
    """Return a density as a plain float, whose repr is a spec; refuse what is not a number in (0, 1]."""
    if not is_number(density) or not 0 < density <= 1:
        raise ValueError(f"density must lie in (0, 1], got {density}")
    return float(density)


def kept(density: float, d: int) -> int:
    """Elements kept out of d: density * d rounded down, at least one, none of an empty vector."""
    return min(d, max(1, int(density * d)))


def from_omega(omega: float) -> float | None:
    """Contraction of an unbiased operator: delta = 1 - omega if that is positive."""
    return 1 - omega if omega < 1 else None
