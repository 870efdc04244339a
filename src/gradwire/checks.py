"""What arguments must be: a bool is no number here, though Python says it is one."""

from __future__ import annotations

from typing import TypeGuard


def is_whole(value: object) -> TypeGuard[int]:
    """Tell a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell a real number, NaN and infinities among them."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_whole(name: str, value: object, least: int = 1) -> None:
    """Refuse what is not a whole number of at least so many."""
    if not is_whole(value) or value < least:
        raise ValueError(f"{name} must be a whole number and at least {least}, got {value!r}")
