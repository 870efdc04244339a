"""Lockstep: n coroutines in one thread, in the order of ranks. Deterministic, and the truth that others are held to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from gradwire.ask import AllToAll, Ask, Gather, Share, Sum, Talk, describe, rows
from gradwire.transport.ledger import Ledger

T = TypeVar("T")


class Disagreement(RuntimeError):
    """Workers asked for different things at the same time; on a network they would hang."""


def lockstep(workers: Sequence[Talk[T]], ledger: Ledger | None = None) -> list[T]:
    """Run one coroutine per worker to the end and return their results in the order of ranks.

    Raises:
        Disagreement: two workers ask for different things, or one asks while another has ended.
    """
    try:
        return _run(workers, ledger or Ledger(len(workers)))
    finally:
        for worker in workers:
            worker.close()


def _run(workers: Sequence[Talk[T]], ledger: Ledger) -> list[T]:
    answers: list[Tensor | None] = [None] * len(workers)
    while True:
        asks: list[Ask | None] = []
        results: list[T] = []
        for worker, answer in zip(workers, answers, strict=True):
            try:
                asks.append(worker.send(answer))  # type: ignore[arg-type]  # a fresh coroutine takes None
            except StopIteration as end:
                asks.append(None)
                results.append(end.value)
        if len(results) == len(workers):
            return results
        agreed = _agree(asks)
        for rank, ask in enumerate(agreed):
            ledger.record(ask, rank, len(workers))
        answers = list(_answer(agreed))


def _agree(asks: Sequence[Ask | None]) -> list[Ask]:
    """Refuse asks that differ, naming the first two that do."""
    said = ["nothing, it has ended" if ask is None else describe(ask) for ask in asks]
    for rank, words in enumerate(said):
        if words != said[0]:
            raise Disagreement(f"worker 0 asked for {said[0]} and worker {rank} for {words}")
    return [ask for ask in asks if ask is not None]


def _answer(asks: Sequence[Ask]) -> list[Tensor]:
    """One answer per worker, none shared with another's, as on a network. ValueError: an all-to-all lacks a row."""
    match asks[0]:
        case Sum():
            first, *others = [ask.values for ask in asks if isinstance(ask, Sum)]
            total = first.clone()
            for values in others:
                total.add_(values)
            return [total.clone() for _ in asks]
        case Gather():
            wires = torch.stack([ask.wire for ask in asks if isinstance(ask, Gather)])
            return [wires.clone() for _ in asks]
        case Share(root=root):
            shared = asks[root]
            return [shared.values.clone() for _ in asks] if isinstance(shared, Share) else []
        case AllToAll():
            routed = torch.stack([rows(ask, len(asks)) for ask in asks if isinstance(ask, AllToAll)], 1)
            return [heard.clone() for heard in routed]
