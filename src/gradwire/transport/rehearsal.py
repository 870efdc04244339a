"""Rehearsal: run an algorithm without a network, to learn what it would ask for and how long it computes in between.

An algorithm is a coroutine, and its runner answers. A rehearsal answers at once, notes the kind and the bytes of
every ask, and the seconds before it. All workers of a small group are rehearsed, one after the other as in `lockstep`,
and of each stretch the slowest worker's seconds count, for whom the others would wait. Of a large group one worker is.
It receives answers as if all others were like it, or, if the others are given, what they would send: each of them is
run up to its message, untimed.
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
    """One ask: its kind, the bytes it puts on the busiest rank's link, and the seconds of computing before it.

    axis: among which ranks; None for all. arriving: bytes that arrive on a rank's link. brought, answer: bytes of what
    a rank brings, and of what it is answered.
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
    """What a step of an algorithm consists of: its asks in order, and the seconds of computing after the last."""

    asks: tuple[Asked, ...]
    rest: float

    @property
    def seconds(self) -> float:
        """Seconds of computing in all."""
        return self.rest + sum(ask.seconds for ask in self.asks)

    @property
    def traffic(self) -> float:
        """Bytes on the busiest rank's link in all."""
        return sum(ask.traffic for ask in self.asks)


def rehearse(
    workers: Sequence[Talk[T]],
    size: int,
    clock: Callable[[], float] = time.perf_counter,
    ready: Callable[[int, int], None] = lambda number, stretch: None,
    others: Callable[[int], Talk[object]] | None = None,
) -> tuple[list[T], Course]:
    """Run the coroutines of all `size` workers, or of one that stands for all, to their end: results and the course.

    `clock` tells seconds. `ready` is called before each stretch of computing, with the worker's number and how many
    answers it has had; it is not timed. `others` begins the coroutine of another worker than the one that stands for
    all, by its rank; it is closed before the next begins.

    Raises:
        Disagreement: two workers ask for different things.
        Exception: whatever a worker raises, which may be no more than that it cannot do with the answers of a
            rehearsal where it stands for all.
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
    """Seconds that a process takes to copy what its collective would overwrite."""
    if not ask.in_place:
        return 0.0
    started = clock()
    ask.x.clone(memory_format=torch.contiguous_format)
    return clock() - started


def _alone(ask: Ask, size: int, before: Sequence[Tensor], others: Callable[[int], Talk[object]] | None) -> Tensor:
    """What the first worker of `size` receives, who has received `before`; without others, if all are like it."""
    ask.check(size)
    if others is None:
        return ask.alone(size)
    return ask.alone(size, agree([_asked(others(rank), before) if rank else ask for rank in ask.senders(size)]))


def _asked(worker: Talk[object], before: Sequence[Tensor]) -> Ask | None:
    """What a worker asks after so many answers; None if it has ended."""
    try:
        ask = worker.send(None)  # type: ignore[arg-type]  # a fresh coroutine takes None
        for received in before:
            ask = worker.send(received.clone())
        return ask.bringing(ask.x.clone())
    except StopIteration:
        return None
    finally:
        worker.close()
