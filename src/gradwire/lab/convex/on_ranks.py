"""One worker of a descent on real ranks: `python -m gradwire.lab.convex.on_ranks ERRAND`, started by `gradwire.net`.

The same objects as in the laboratory: the problem, the method, its exchange. Rank 0 prints one JSON object a mark. A
worker that is given something bad prints an `error` event with one sentence and ends with code 2.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from gradwire.lab.convex.descent import Mark
from gradwire.lab.convex.methods import Method, compose
from gradwire.lab.convex.problems import Problem, make
from gradwire.lab.remote import live, say
from gradwire.layout import Layout, Turn
from gradwire.memory import start_
from gradwire.spec import operator
from gradwire.transport.process import Process

Options = dict[str, int | float | str | None]


@dataclass(frozen=True)
class Errand:
    """A descent on `workers` ranks, for at most so many rounds and seconds.

    problem, options: of `problems.make`. method, step: of `methods.compose`; compressor, biased: specs. every: rounds
    between marks. dtype: of gradients and memories, float32 as in training or float64 as in the laboratory.
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

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Errand:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))

    def make(self) -> tuple[Problem, Method]:
        """Make problem and method, the same on every rank. ValueError for whatever does not fit."""
        problem = make(self.problem, workers=self.workers, seed=self.seed, **self.options)
        biased = None if self.biased is None else operator(self.biased)
        return problem, compose(self.method, problem, operator(self.compressor), biased=biased, step=self.step)


def main() -> None:
    """Run the errand, and leave."""
    live(_run, 60, (ValueError, ArithmeticError, ModuleNotFoundError, FileNotFoundError))


def _run() -> None:
    for seconds, mark in walk(Errand.from_json(sys.argv[1])):
        say("mark", seconds=seconds, **asdict(mark))


def walk(errand: Errand) -> Iterator[tuple[float, Mark]]:
    """Descend with the other ranks; seconds so far and marks."""
    problem, method = errand.make()
    if dist.get_world_size() != problem.n:
        raise ValueError(f"a problem of {problem.n} workers needs as many ranks, got {dist.get_world_size()}")
    process = Process(dist.group.WORLD)  # pyright: ignore[reportArgumentType]
    rank, layout, dtype = process.rank, Layout(["x"], [(problem.d,)]), _dtype(errand.dtype)
    state = method.exchange.init(layout, dtype)
    if method.shifts is not None:
        start_(state, method.shifts[rank], method.shifts.mean(0))
    x, start = problem.start.clone(), (problem.start - problem.best).square().sum()
    began = time.perf_counter()
    yield 0.0, Mark(0, 1.0, 0, 0)
    for k in range(1, errand.rounds + 1):
        point = x.to(dtype)
        turn = Turn(rank, problem.n, k - 1, layout, errand.seed, params=lambda point=point: point)
        gradient = problem.gradients(x)[rank].to(dtype)
        sent = process.run(method.exchange(gradient, state, turn))
        sent.mean.add_to_(x, -method.step)
        if k % errand.every == 0 or k == errand.rounds:
            error = ((x - problem.best).square().sum() / start).item()
            seconds = _agree(time.perf_counter() - began)
            yield seconds, Mark(k, error, process.ledger.bytes, process.ledger.traffic)
            if seconds >= errand.seconds:
                return


def _agree(seconds: float) -> float:
    """Rank 0's clock, so that all stop after the same round."""
    heard: Tensor = torch.tensor([seconds], dtype=torch.float64)
    dist.broadcast(heard, 0)
    return heard.item()


def _dtype(name: str) -> torch.dtype:
    known = {"float32": torch.float32, "float64": torch.float64}
    if name not in known:
        raise ValueError(f"dtype must be float32 or float64, got {name!r}")
    return known[name]


if __name__ == "__main__":
    main()
