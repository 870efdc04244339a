"""Measured numbers of steps to reach a loss, by method and optimizer.

`losses.json` is made from benchmark results by benchmarks/loss_table.py. Each row states the steps that dense and one
method took to the same loss in one run, or that the method did not reach it within a limit. Nothing is known about
other models, so output that applies a ratio to one names the runs it comes from.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from gradwire.spec import SpecError, parse

OPTIMIZERS = ("adamw", "sgd")
"""Optimizers with measured curves."""


@dataclass(frozen=True)
class Known:
    """One method (`way`) in one run.

    dense, steps: steps to the loss by dense and by the method; steps is None if it was not reached within `limit`.
    """

    way: str
    optimizer: str
    task: str
    workers: int
    loss: float
    dense: float
    steps: float | None
    limit: float
    source: str

    @property
    def ratio(self) -> float:
        """Steps of the method divided by dense's; inf if it did not reach the loss."""
        return math.inf if self.steps is None else self.steps / self.dense


@lru_cache(maxsize=1)
def table() -> tuple[Known, ...]:
    """All rows of `losses.json`."""
    text = resources.files("gradwire.advice").joinpath("losses.json").read_text()
    return tuple(Known(**row) for row in json.loads(text))


def known(way: str, optimizer: str) -> tuple[Known, ...]:
    """The rows of a method under an optimizer. `way`: any spelling of its spec, or a name such as "local(every=10)".

    Raises:
        ValueError: no losses are known for this optimizer.
    """
    check_optimizer(optimizer)
    return tuple(row for row in table() if row.optimizer == optimizer and _same(row.way, way))


def check_optimizer(optimizer: str) -> None:
    """Raise ValueError for an optimizer without measured curves."""
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"losses are known under {' and '.join(OPTIMIZERS)}, got {optimizer!r}")


def ratio(rows: Sequence[Known]) -> float | None:
    """The median over runs of steps divided by dense's; None if there are no rows."""
    return statistics.median(row.ratio for row in rows) if rows else None


def in_words(rows: Sequence[Known]) -> str:
    """Name the runs that rows come from: "a GPT of 0.8 M parameters on text, 4 workers"."""
    return "; ".join(dict.fromkeys(f"{row.task}, {row.workers} workers" for row in rows))


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        return parse(one) == parse(other)
    except SpecError:
        return False
