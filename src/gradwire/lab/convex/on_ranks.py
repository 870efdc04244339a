"""A descent on real ranks, one worker each; loop, problem and method are those of one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from gradwire.lab import remote
from gradwire.lab.averager import OnRank
from gradwire.lab.convex.descent import Mark, walk
from gradwire.lab.convex.methods import ConvexMethod, compose
from gradwire.lab.convex.problems import Problem, make
from gradwire.spec import operator

Options: TypeAlias = dict[str, int | float | str | None]

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Descent:
    """A descent on `workers` ranks, for at most `rounds` rounds and `seconds` seconds.

    problem, options: arguments of `problems.make`. method, step: arguments of `methods.compose`. compressor, biased:
    specs. every: rounds between marks. dtype: of gradients and states, float32 as in training or float64.
    """

    problem: str
    method: str
    compressor: str
    workers: int
    rounds: int
    every: int = 1
    seconds: float = 1e9
    seed: int = 0
    biased: str | None = None
    step: float | None = None
    dtype: str = "float64"
    options: Options = field(default_factory=Options)

    def make(self) -> tuple[Problem, ConvexMethod]:
        """Make problem and method, the same on every rank; ValueError for invalid arguments."""
        problem = make(self.problem, workers=self.workers, seed=self.seed, **self.options)
        biased = None if self.biased is None else operator(self.biased)
        return problem, compose(self.method, problem, operator(self.compressor), biased=biased, step=self.step)


@dataclass(frozen=True)
class TimedMark:
    """A mark, and rank 0's seconds since the start."""

    seconds: float
    mark: Mark


def descend_on_ranks(
    descent: Descent, rate: str | None = None, listen: Callable[[TimedMark], None] = remote.ignore
) -> list[TimedMark]:
    """Descend with a process for each worker, on links of `rate` or over loopback.

    Raises:
        gradwire.lab.remote.Failed: a rank refused its input or died; the message comes from the rank.
        gradwire.net.Refused: links of a chosen rate are not available.
    """
    marks: list[TimedMark] = []

    def note(timed: TimedMark) -> None:
        marks.append(timed)
        listen(timed)

    name = f"the descent by {descent.method}"
    remote.run(descend_on_rank, descent, descent.workers, name=name, rate=rate, listen=note, timeout=60)
    return marks


def descend_on_rank(descent: Descent, report: remote.Report) -> None:
    """Descend as one of the ranks. Rank 0's clock decides for all ranks when the seconds are over."""
    if descent.dtype not in DTYPES:
        raise ValueError(f"dtype must be float32 or float64, got {descent.dtype!r}")
    problem, method = descent.make()
    marks = walk(problem, method, descent.rounds, descent.every, descent.seed, OnRank, DTYPES[descent.dtype])
    report(TimedMark(0.0, next(marks)))
    began = time.perf_counter()
    for mark in marks:
        (seconds,) = remote.agreed(time.perf_counter() - began)
        report(TimedMark(seconds, mark))
        if seconds >= descent.seconds:
            return
