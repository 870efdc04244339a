"""Batched: one coroutine for all n workers, for speed. Every tensor that a worker owns has a leading axis of n rows.

Results agree with lockstep in distribution: n workers draw from n random streams there and from one here.
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

from gradwire.ask import Ask, Talk, describe
from gradwire.transport.ledger import Ledger

T = TypeVar("T")

ALL_ROWS = slice(None)
"""The rank of a batched turn: all rows."""


def batched(workers: Talk[T], size: int, ledger: Ledger | None = None) -> T:
    """Run the one coroutine that stands for `size` workers to its end, and return its result.

    Raises:
        ValueError: the x of an ask does not have one row per worker.
    """
    answer: Tensor | None = None
    try:
        while True:
            ask = workers.send(answer)  # type: ignore[arg-type]  # a fresh coroutine takes None
            answer = _answer(ask, size)
            if ledger is not None:
                ledger.record(ask, ALL_ROWS, size)
    except StopIteration as end:
        return end.value
    finally:
        workers.close()


def _answer(ask: Ask, size: int) -> Tensor:
    """Return the batched answer to an ask."""
    if ask.x.ndim == 0 or ask.x.shape[0] != size:
        raise ValueError(f"a batched worker asks with one row for each of {size} workers, got {describe(ask)}")
    ask.check(size)
    return ask.batched(size)
