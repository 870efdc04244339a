"""One step of an exchange, with checks for mistakes in its definition: it must be a coroutine that returns a `Sent`."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import cast

from torch import Tensor

from gradwire.exchange.protocol import Exchange, State
from gradwire.layout import Turn
from gradwire.reprs import describe
from gradwire.vector import Dense, Offset, Sent, Sparse


async def step(exchange: Exchange, x: Tensor, state: State, turn: Turn) -> Sent:
    """Return `await exchange(x, state, turn)`.

    Raises:
        TypeError: the exchange's __call__ is not `async def`, or does not return `Sent` of vectors.
    """
    talk = cast(object, exchange(x, state, turn))
    if not isinstance(talk, Coroutine):
        raise TypeError(
            f"an exchange's __call__ is a coroutine, `async def __call__(self, x, state, turn)`, and that of "
            f"{describe(exchange)} returned {_kind(talk)}"
        )
    sent = cast(object, await talk)
    if not isinstance(sent, Sent):
        raise TypeError(f"an exchange returns Sent(own=..., mean=...), and {describe(exchange)} returned {_kind(sent)}")
    for name in ("own", "mean"):
        vector = cast(object, getattr(sent, name))
        if not isinstance(vector, Dense | Sparse | Offset):
            raise TypeError(
                f"an exchange returns vectors, such as Dense(tensor), and {describe(exchange)} returned Sent whose "
                f"{name} is {_kind(vector)}"
            )
    return sent


def _kind(value: object) -> str:
    """Return a value's type with its article: `a Tensor`, `None`."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
