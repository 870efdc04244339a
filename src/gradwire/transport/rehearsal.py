"""Rehearsal: run an algorithm without a network, to measure what it asks for and how long it computes between asks.

A rehearsal answers every ask at once, and records its kind, its bytes and the seconds of computing before it. In a
small group all workers are rehearsed, one after the other as in `lockstep`, and each stretch of computing counts with
the slowest worker's seconds, because the others would wait for it. In a large group one worker stands for all. It
receives answers as if all workers sent the same, or, if the others are given, what they would send: each of them is run
up to its message, untimed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from gradwire.ask import Ask, Axis, Talk
from gradwire.transport.lockstep import agree, answer

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """The measurements of one ask.

    Attributes:
        kind: the name of the collective.
        traffic: bytes on the busiest rank's link.
        seconds: seconds of computing before it.
        axis: the axis of the groups that take part; None for all ranks.
        arriving: bytes that arrive on a rank's link.
        brought: bytes of a rank's tensor.
        answer: bytes of a rank's answer.
    """

    kind: str
    traffic: float
    seconds: float
    axis: Axis | None = None
    arriving: float = 0.0
    brought: int = 0
    answer: int = 0


@dataclass(frozen=True)
class Course:
    """A step of an algorithm: its asks in order, and `rest`, the seconds of computing after the last."""

    asks: tuple[Asked, ...]
    rest: float

    @property
    def seconds(self) -> float:
        """All seconds of computing."""
        return self.rest + sum(ask.seconds for ask in self.asks)

    @property
    def traffic(self) -> float:
        """All bytes on the busiest rank's link."""
        return sum(ask.traffic for ask in self.asks)


def rehearse(
    workers: Sequence[Talk[T]],
    size: int,
    clock: Callable[[], float] = time.perf_counter,
    ready: Callable[[int, int], None] = lambda number, stretch: None,
    others: Callable[[int], Talk[object]] | None = None,
) -> tuple[list[T], Course]:
    """Run the coroutines of all `size` workers, or of one that stands for all, and return results and measurements.

    Args:
        workers: the coroutines.
        size: number of workers.
        clock: returns seconds.
        ready: called before each stretch of computing, untimed, with the worker's number and the number of answers it
            has received.
        others: starts the coroutine of another rank, when one worker stands for all; each is closed before the next
            starts.

    Raises:
        Disagreement: two workers ask for different collectives.
        Exception: whatever a worker raises. One that stands for all may fail on the answers of a rehearsal alone.
    """
    if len(workers) not in (1, size):
        raise ValueError(f"a rehearsal takes one worker or all {size}, got {len(workers)}")
    try:
        return _run(workers, size, clock, ready, others)
    finally:
        for worker in workers:
            worker.close()


def _run(
    workers: Sequence[Talk[T]],
    size: int,
    clock: Callable[[], float],
    ready: Callable[[int, int], None],
    others: Callable[[int], Talk[object]] | None,
) -> tuple[list[T], Course]:
    """Run `rehearse`, without closing the coroutines."""
    before: list[Tensor] = []
    answers: Sequence[Tensor] | Sequence[None] = [None] * len(workers)
    noted: list[Asked] = []
    while True:
        asks: list[Ask | None] = []
        results: list[T] = []
        slowest = 0.0
        for number, (worker, received) in enumerate(zip(workers, answers, strict=True)):
            ready(number, len(noted))
            started = clock()
            try:
                asks.append(worker.send(received))  # type: ignore[arg-type]  # a fresh coroutine takes None
            except StopIteration as end:
                asks.append(None)
                results.append(end.value)
            slowest = max(slowest, clock() - started)
        if len(results) == len(workers):
            return results, Course(tuple(noted), slowest)
        agreed = agree(asks)
        ask, seconds = agreed[0], slowest + _copying(agreed[0], clock)
        answers = answer(agreed) if len(agreed) == size else [_alone(ask, size, before, others)]
        if others is not None:
            before.append(answers[0].clone())
        brought, answered = max(one.x.nbytes for one in agreed), max(one.nbytes for one in answers)
        noted.append(Asked(ask.kind, ask.busiest(size), seconds, ask.axis, ask.arriving(size), brought, answered))


def _copying(ask: Ask, clock: Callable[[], float]) -> float:
    """Return the seconds that `Process` takes to copy a tensor that its collective would overwrite."""
    if not ask.in_place:
        return 0.0
    started = clock()
    ask.x.clone(memory_format=torch.contiguous_format)
    return clock() - started


def _alone(ask: Ask, size: int, before: Sequence[Tensor], others: Callable[[int], Talk[object]] | None) -> Tensor:
    """Answer the first of `size` workers; `others`, if given, are run through the answers `before` to this ask."""
    ask.check(size)
    if others is None:
        return ask.alone(size)
    return ask.alone(size, agree([_asked(others(rank), before) if rank else ask for rank in ask.senders(size)]))


def _asked(worker: Talk[object], before: Sequence[Tensor]) -> Ask | None:
    """Return a worker's ask after the answers `before`; None if it has ended."""
    try:
        ask = worker.send(None)  # type: ignore[arg-type]  # a fresh coroutine takes None
        for received in before:
            ask = worker.send(received.clone())
        return ask.bringing(ask.x.clone())
    except StopIteration:
        return None
    finally:
        worker.close()
