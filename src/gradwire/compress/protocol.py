"""What every compressor is, and the one parameter that most of them share."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol, cast, runtime_checkable

from torch import Tensor

from gradwire import kernels
from gradwire.checks import is_number
from gradwire.kernels import Accumulated
from gradwire.layout import Turn
from gradwire.vector import Message
from gradwire.wire.values import Format


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
        """Bytes on the wire; both ends know it without a header. Of a `Ragged` compressor the most it may take."""
        ...

    def omega(self, d: int) -> float | None:
        """Relative variance if unbiased: E C(x) = x and E |C(x) - x|^2 <= omega |x|^2. None if biased."""
        ...

    def delta(self, d: int) -> float | None:
        """Contraction: E |C(x) - x|^2 <= (1 - delta) |x|^2. None if it may expand."""
        ...


@runtime_checkable
class Direct(Protocol):
    """A compressor that can do without its bytes where nobody needs them: in a batched laboratory."""

    def apply(self, x: Tensor, turn: Turn) -> Message:
        """f[..., d] -> C(x), what `decode(encode(x, turn), d)` is in x's dtype; dense or sparse.

        Value for value, except that a composition may round sums of two parts in another order.
        """
        ...


@runtime_checkable
class Ragged(Protocol):
    """A compressor whose messages are as long as the vector needs. `decode` ignores zeros that follow."""

    def length(self, wire: Tensor, d: int) -> int:
        """Bytes of the message at the start of u8[m]; of several messages u8[..., m], those of the longest."""
        ...


@runtime_checkable
class Sparsifier(Protocol):
    """A compressor in two parts, of which `chain` takes the first: it says where values are kept, not what they are."""

    @property
    def values(self) -> Format:
        """The format of its own second part."""
        ...

    def choose(self, x: Tensor, turn: Turn) -> Tensor:
        """f[..., d] -> int64[..., count(d)], increasing places. A `Selective` one takes an `Accumulated` too."""
        ...

    def head(self, places: Tensor, d: int, turn: Turn) -> Tensor:
        """What `choose` has chosen on this turn, int64[..., count(d)] -> u8[..., head_nbytes(d)]."""
        ...

    def places(self, head: Tensor, d: int) -> Tensor:
        """u8[..., head_nbytes(d)] -> int64[..., count(d)]."""
        ...

    def head_nbytes(self, d: int) -> int:
        """Bytes that say the places."""
        ...

    def count(self, d: int) -> int:
        """How many of d values are kept."""
        ...

    def gain(self, d: int) -> float:
        """By what the kept values are multiplied: 1 for a projection, more to be unbiased."""
        ...

    def omega(self, d: int) -> float | None:
        """Relative variance if unbiased, as a compressor's."""
        ...

    def delta(self, d: int) -> float | None:
        """Contraction, as a compressor's."""
        ...


def pick(sparsifier: Sparsifier, x: Tensor | Accumulated, turn: Turn) -> tuple[Tensor, Tensor]:
    """f[..., d] -> places int64[..., k] and the values there times the gain f[..., k]."""
    places = sparsifier.choose(cast(Tensor, x), turn)  # only a `Selective` one is given anything else
    x = kernels.values(x)
    gain = sparsifier.gain(x.shape[-1])
    # The same, but the first takes half as long.
    values = x.index_select(0, places) if x.ndim == 1 else x.gather(-1, places)
    return places, values if gain == 1.0 else values.mul_(gain)


def operate(compressor: Compressor, x: Tensor, turn: Turn) -> Message:
    """f[..., d] -> C(x), without bytes where the compressor knows how."""
    if _is_direct(type(compressor)):
        return cast(Direct, compressor).apply(x, turn)
    return compressor.decode(compressor.encode(x, turn), x.shape[-1])


def check_length(compressor: Compressor, wire: Tensor, d: int) -> None:
    """Refuse a message u8[..., m] of another length than the compressor's in dimension d."""
    if wire.shape[-1] != compressor.nbytes(d):
        raise ValueError(f"{compressor} in dimension {d} takes {compressor.nbytes(d)} bytes, got {wire.shape[-1]}")


@lru_cache
def _is_direct(kind: type) -> bool:
    """Remembered: to look through a protocol takes longer than to compress a short vector."""
    return issubclass(kind, Direct)


def check_density(density: float) -> float:
    """Return a density as a plain float, whose repr is a spec; refuse what is not a number in (0, 1]."""
    if not is_number(density) or not 0 < density <= 1:
        raise ValueError(f"density must lie in (0, 1], got {density}")
    return float(density)


def kept(density: float, d: int) -> int:
    """Elements kept out of d: the density's share rounded down, at least one, none of an empty vector."""
    return min(d, max(1, int(density * d)))


def from_omega(omega: float) -> float | None:
    """Contraction of an unbiased operator, delta = 1 - omega where that is positive."""
    return 1 - omega if omega < 1 else None
