"""Lockstep: n coroutines in one thread, in the order of ranks. It is the deterministic reference for the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from gradwire.ask import Ask, Talk, describe
from gradwire.transport.ledger import Ledger

T = TypeVar("T")


class Disagreement(RuntimeError):
    """Workers asked for different collectives at the same time; on a network they would hang."""


def lockstep(workers: Sequence[Talk[T]], ledger: Ledger | None = None) -> list[T]:
    """Run one coroutine per worker to the end and return their results in the order of ranks.

    Raises:
        Disagreement: two workers ask for different collectives, or one asks while another has ended.
    """
    try:
        return _run(workers, ledger or Ledger(len(workers)))
    finally:
        for worker in workers:
            worker.close()


def _run(workers: Sequence[Talk[T]], ledger: Ledger) -> list[T]:
    """Run `lockstep`, without closing the coroutines."""
    answers: list[Tensor | None] = [None] * len(workers)
    while True:
        asks: list[Ask | None] = []
        results: list[T] = []
        for worker, received in zip(workers, answers, strict=True):
            try:
                asks.append(worker.send(received))  # type: ignore[arg-type]  # a fresh coroutine takes None
            except StopIteration as end:
                asks.append(None)
                results.append(end.value)
        if len(results) == len(workers):
            return results
        agreed = agree(asks)
        for rank, ask in enumerate(agreed):
            ledger.record(ask, rank, len(workers))
        answers = list(answer(agreed))


def agree(asks: Sequence[Ask | None]) -> list[Ask]:
    """Raise Disagreement if asks differ, naming the first that does. None stands for a worker that has ended."""
    described = ["nothing, it has ended" if ask is None else describe(ask) for ask in asks]
    for rank, words in enumerate(described):
        if words != described[0]:
            raise Disagreement(f"worker 0 asked for {described[0]} and worker {rank} for {words}")
    return [ask for ask in asks if ask is not None]


def answer(asks: Sequence[Ask]) -> list[Tensor]:
    """Return one answer per worker, with no shared memory, as on a network (ValueError: an ask does not fit)."""
    asks[0].check(len(asks))
    return asks[0].answers(asks)
