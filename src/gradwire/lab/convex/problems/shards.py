"""How the rows of a data set are distributed over the workers."""

from __future__ import annotations

from typing import Literal

from gradwire.lab.checks import check_count

Shards = Literal["shuffled", "sorted"]
"""Rows in random order, or sorted by target, which makes the workers as different as the samples allow."""


def check_shards(shards: str, m: int, n: int) -> None:
    """Raise ValueError for an unknown order, or if there are more workers than rows."""
    if shards not in ("shuffled", "sorted"):
        raise ValueError(f'shards must be "shuffled" or "sorted", got {shards!r}')
    check_count("n", n)
    if m < n:
        raise ValueError(f"every worker needs a row, and {m} rows are too few for {n} workers")
