"""What is known of the steps to a loss: measured curves, by way and optimizer.

`losses.json` is made of benchmark results by benchmarks/loss_table.py. Each row says: in this run dense came to this
loss in so many steps, and the way in so many, or not at all within a limit. Nothing is known of other models: who uses
a ratio of steps for one says where it was measured.
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
"""For which there are curves."""


@dataclass(frozen=True)
class Known:
    """One way in one run. dense, steps: steps to the loss; None if the way never came to it within `limit` steps."""

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
        """Steps of the way for each of dense; inf if it never came to the loss."""
        return math.inf if self.steps is None else self.steps / self.dense


@lru_cache(maxsize=1)
def table() -> tuple[Known, ...]:
    """All rows."""
    text = resources.files("gradwire.advice").joinpath("losses.json").read_text()
    return tuple(Known(**row) for row in json.loads(text))


def known(way: str, optimizer: str) -> tuple[Known, ...]:
    """The rows of a way under an optimizer: a spec, however it is written, or a name such as "local(every=10)".

    Raises:
        ValueError: no losses are known for this optimizer.
    """
    check_optimizer(optimizer)
    return tuple(row for row in table() if row.optimizer == optimizer and _same(row.way, way))


def check_optimizer(optimizer: str) -> None:
    """Refuse an optimizer for which there are no curves (ValueError)."""
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"losses are known under {' and '.join(OPTIMIZERS)}, got {optimizer!r}")


def ratio(rows: Sequence[Known]) -> float | None:
    """Steps for each of dense, the median over runs; None of no run."""
    return statistics.median(row.ratio for row in rows) if rows else None


def in_words(rows: Sequence[Known]) -> str:
    """Where a ratio is from: "a GPT of 0.8 M parameters on text, 4 workers"."""
    return "; ".join(dict.fromkeys(f"{row.task}, {row.workers} workers" for row in rows))


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        return parse(one) == parse(other)
    except SpecError:
        return False
