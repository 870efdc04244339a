"""Argument checks shared by the laboratory; each raises ValueError with one sentence and the wrong value."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Sequence

from gradwire.checks import is_number, is_whole


def check_name(kind: str, name: str, known: Collection[str]) -> None:
    """Raise ValueError for an unknown name; the message suggests a similar known one."""
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        raise ValueError(f"unknown {kind} {name!r}; {hint}")


def check_count(name: str, value: int) -> None:
    """Raise ValueError unless the value is a whole number of at least 1."""
    if not is_whole(value) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_number(name: str, value: float, least: float, *, above: bool = False) -> None:
    """Raise ValueError unless the value is a finite number of at least `least`, or with `above`, greater."""
    real = is_number(value) and math.isfinite(value)
    if not real or value < least or (above and value == least):
        raise ValueError(
            f"{name} must be a finite number {'above' if above else 'of at least'} {least:g}, got {value!r}"
        )


def check_once(kind: str, every: Sequence[object]) -> None:
    """Raise ValueError if a plan has no entry of a kind, or a duplicate."""
    if not every or len(set(every)) < len(every):
        raise ValueError(f"a plan names every {kind} once, got {', '.join(map(str, every)) or 'none'}")


def check_bucket_mb(megabytes: float) -> None:
    """Raise ValueError unless a bucket size in MiB is positive and finite."""
    if not 0 < megabytes < math.inf:
        raise ValueError(f"bucket_mb must be positive and finite, got {megabytes}")
