"""What a worker may ask of its peers. `await` is the network; whoever runs the coroutine answers.

All workers must ask for the same thing at the same time: the same kind, shape, dtype and root.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Sum:
    """Add f[...] over the workers. The answer is a new tensor of the same shape and dtype."""

    values: Tensor

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        return (yield self)


@dataclass(frozen=True)
class Gather:
    """Hand every worker's bytes u8[m] to every worker. The answer is u8[n, m], in the order of ranks."""

    wire: Tensor

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        return (yield self)


@dataclass(frozen=True)
class Share:
    """Hand the root's tensor to every worker; what the others bring gives shape and dtype only."""

    values: Tensor
    root: int

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        return (yield self)


@dataclass(frozen=True)
class AllToAll:
    """Hand row r of the bytes u8[n, m] to rank r. The answer is u8[n, m]: row r is what rank r had for this worker."""

    wires: Tensor

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        return (yield self)


Ask: TypeAlias = Sum | Gather | Share | AllToAll

Talk: TypeAlias = Coroutine[Ask, Tensor, T]
"""A running algorithm: it asks, is sent answers, and ends with a T."""


def payload(ask: Ask) -> Tensor:
    """The tensor that a worker brings to an ask."""
    match ask:
        case Sum(values) | Share(values):
            return values
        case Gather(wire):
            return wire
        case AllToAll(wires):
            return wires


def rows(ask: AllToAll, size: int) -> Tensor:
    """Return the bytes [..., size, m] of an ask, one row for each of `size` workers, or refuse it (ValueError)."""
    if ask.wires.ndim < 2 or ask.wires.shape[-2] != size:
        raise ValueError(f"an all-to-all brings one row for each of {size} workers, got {describe(ask)}")
    return ask.wires


def describe(ask: Ask) -> str:
    """Say an ask in a few words, for error messages: `Sum(float32[10])`."""
    brought = payload(ask)
    what = f"{str(brought.dtype).removeprefix('torch.')}{list(brought.shape)}"
    return f"{type(ask).__name__}({what}{f', root={ask.root}' if isinstance(ask, Share) else ''})"
