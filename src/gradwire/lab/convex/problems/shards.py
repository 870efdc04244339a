"""How the rows of a data set are dealt to the workers."""

from __future__ import annotations

from typing import Literal

from gradwire.lab.checks import check_count

Shards = Literal["shuffled", "sorted"]
"""At random, or sorted by target, so that the workers differ as much as the samples allow."""


def check_shards(shards: str, m: int, n: int) -> None:
    """Refuse an unknown order, and more workers than rows."""
    if shards not in ("shuffled", "sorted"):
        raise ValueError(f'shards must be "shuffled" or "sorted", got {shards!r}')
    check_count("n", n)
    if m < n:
        raise ValueError(f"every worker needs a row, and {m} rows are too few for {n} workers")
