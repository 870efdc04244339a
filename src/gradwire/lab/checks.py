"""Refusals that the laboratory's rooms share: one sentence with the value that was wrong."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Sequence

from gradwire.checks import is_number, is_whole


def check_name(kind: str, name: str, known: Collection[str]) -> None:
    """Refuse a name that is not known, with the nearest that is (ValueError)."""
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        raise ValueError(f"unknown {kind} {name!r}; {hint}")


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


def check_once(kind: str, every: Sequence[object]) -> None:
    """Refuse a plan that names none of a kind, or one of them twice (ValueError)."""
    if not every or len(set(every)) < len(every):
        raise ValueError(f"a plan names every {kind} once, got {', '.join(map(str, every)) or 'none'}")


def check_bucket_mb(megabytes: float) -> None:
    """Refuse a size of buckets that a benchmark cannot have (ValueError)."""
    if not 0 < megabytes < math.inf:
        raise ValueError(f"bucket_mb must be positive and finite, got {megabytes}")
