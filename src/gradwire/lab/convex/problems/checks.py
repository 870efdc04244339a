"""Refusals that several problems share: one sentence with the value that was wrong."""

from __future__ import annotations

import math
from typing import Literal

from gradwire.checks import is_number, is_whole

Shards = Literal["shuffled", "sorted"]
"""How rows go to workers: at random, or sorted by target, so that workers differ as much as the samples allow."""


def check_count(name: str, value: int) -> None:
    """Refuse what is not a whole number of at least one."""
    if not is_whole(value) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_number(name: str, value: float, least: float, *, above: bool = False) -> None:
    """Refuse what is not a finite number of at least `least`, or above it."""
    real = is_number(value) and math.isfinite(value)
    if not real or value < least or (above and value == least):
        raise ValueError(
            f"{name} must be a finite number {'above' if above else 'of at least'} {least:g}, got {value!r}"
        )


def check_shards(shards: str, m: int, n: int) -> None:
    """Refuse unknown orders, and workers without a row."""
    if shards not in ("shuffled", "sorted"):
        raise ValueError(f'shards must be "shuffled" or "sorted", got {shards!r}')
    check_count("n", n)
    if m < n:
        raise ValueError(f"every worker needs a row, and {m} rows are too few for {n} workers")
