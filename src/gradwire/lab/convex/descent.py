"""Descent: run a method on a problem, and record its error and the bytes it sends.

The error is |x - x*|^2 / |x^0 - x*|^2. Bytes are what one worker brings to its collectives, averaged over the workers.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from gradwire.lab.averager import Averager, InProcess, Meet
from gradwire.lab.convex.local_steps import local_points
from gradwire.lab.convex.methods import ConvexMethod
from gradwire.lab.convex.problems import Problem
from gradwire.layout import Layout

Transport: TypeAlias = Literal["batched", "lockstep"]

MEET: Mapping[Transport, Meet] = MappingProxyType(
    {"batched": functools.partial(InProcess, batched=True), "lockstep": InProcess}
)
"""Makers of averagers with all workers in this process, by transport."""

DIVERGED = 1e12
"""The error at which a run is stopped as diverged."""


@dataclass(frozen=True)
class Mark:
    """A point of a run: rounds so far, error, bytes that a worker has sent, and their traffic on its link with gloo."""

    round: int
    error: float
    bytes: int
    traffic: int


@dataclass(frozen=True)
class Trace:
    """A run: its marks, the first at round 0, and its seconds."""

    method: ConvexMethod
    marks: tuple[Mark, ...]
    seconds: float

    def first_below(self, error: float) -> Mark | None:
        """The first mark with at most this error; None if there is none."""
        return next((mark for mark in self.marks if mark.error <= error), None)

    @property
    def plateau(self) -> float:
        """The mean error over the last quarter of the rounds."""
        last = [mark.error for mark in self.marks if mark.round >= 0.75 * self.marks[-1].round]
        return sum(last) / len(last)

    def contraction(self) -> float:
        """The measured factor per round by which the error falls, from a least-squares line through its logarithm.

        Only marks before the first one within ten times the plateau or below 1e-20 are used; NaN if there are fewer
        than two.
        """
        floor = max(10 * self.plateau, 1e-20)
        end = next((i for i, mark in enumerate(self.marks) if mark.error <= floor), len(self.marks))
        if end < 2:
            return float("nan")
        rounds = torch.tensor([mark.round for mark in self.marks[:end]], dtype=torch.float64)
        logs = torch.tensor([mark.error for mark in self.marks[:end]], dtype=torch.float64).log()
        rounds = rounds - rounds.mean()
        return math.exp((rounds.dot(logs) / rounds.square().sum()).item())


def descend(
    problem: Problem,
    method: ConvexMethod,
    rounds: int,
    *,
    seed: int = 0,
    every: int | None = None,
    until: float = 0.0,
    transport: Transport = "batched",
    listen: Callable[[Mark], None] | None = None,
) -> Trace:
    """Run gradient descent with a method's exchange, with all workers in this process.

    Args:
        problem: the problem to minimise, from its start.
        method: the exchange that averages the gradients, and the step size.
        rounds: the largest number of rounds.
        seed: seeds the method's randomness.
        every: rounds between marks; by default there are about 400 marks.
        until: the error at which to stop.
        transport: "batched" is fast; "lockstep" gives the bits of a network.
        listen: called with every mark.

    Raises:
        ValueError: rounds or every are less than 1, or the exchange does not run batched.
    """
    every = max(1, rounds // 400) if every is None else every
    if rounds < 1 or every < 1:
        raise ValueError(f"rounds and every must be at least 1, got {rounds} and {every}")
    started = time.perf_counter()
    marks: list[Mark] = []
    for mark in walk(problem, method, rounds, every, seed, MEET[transport]):
        marks.append(mark)
        if listen:
            listen(mark)
        if not until < mark.error < DIVERGED:
            break
    return Trace(method, tuple(marks), time.perf_counter() - started)


def walk(
    problem: Problem,
    method: ConvexMethod,
    rounds: int,
    every: int,
    seed: int = 0,
    meet: Meet = MEET["batched"],
    dtype: torch.dtype = torch.float64,
) -> Iterator[Mark]:
    """Descend with the workers that `meet` places in this process, and yield a mark after every `every` rounds.

    Points are float64; gradients and states have `dtype`. With local steps, marks are of the common point.
    """
    averager = meet(method.exchange, Layout(["x"], [(problem.d,)]), problem.n, seed, dtype, method.shifts)
    if method.local is None:
        points = _points(problem, method.step, averager, dtype, rounds, every)
    else:
        every_round = local_points(problem, method.local, method.step, averager, seed, dtype)
        ends = zip(range(1, rounds + 1), every_round, strict=False)
        points = ((k, each.y) for k, each in ends if k % every == 0 or k == rounds)
    start = (problem.start - problem.best).square().sum()
    yield Mark(0, 1.0, 0, 0)
    for k, x in points:
        error = ((x - problem.best).square().sum() / start).item()
        yield Mark(k, error, averager.ledger.bytes, averager.ledger.traffic)


def _points(
    problem: Problem, step: float, averager: Averager, dtype: torch.dtype, rounds: int, every: int
) -> Iterator[tuple[int, Tensor]]:
    """Run gradient descent; yield the rounds done and the point, f64[d], after every `every` rounds and at the end."""
    x, gradients = problem.start.clone(), torch.empty(problem.n, problem.d, dtype=problem.start.dtype)
    mine = gradients[averager.workers.start : averager.workers.stop]

    def once(k: int) -> None:
        problem.gradients(x, gradients)
        averager.send(mine.to(dtype), k, x.to(dtype)).mean.add_to_(x, -step)

    run = averager.repeated(once)
    for start in range(0, rounds, every):
        steps = range(start, min(start + every, rounds))
        run(steps)
        yield steps.stop, x
