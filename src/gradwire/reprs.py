"""Reprs that stay what they were: an option that came later is not named while it is at its default.

The repr of an exchange is its spec, and a checkpoint stores it: without this a new option would refuse every checkpoint
that is older than itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


def quiet(*later: str) -> Callable[[type[T]], type[T]]:
    """Let a dataclass's repr leave out the options named here where they are at their defaults.

    Stands above the dataclass decorator: `@quiet("beta")`, then `@dataclass(frozen=True)`.
    """

    def describe(self: Any) -> str:
        shown = [field for field in fields(self) if field.repr]
        named = [field for field in shown if field.name not in later or getattr(self, field.name) != field.default]
        return (
            f"{type(self).__qualname__}({', '.join(f'{field.name}={getattr(self, field.name)!r}' for field in named)})"
        )

    def decorate(kind: type[T]) -> type[T]:
        kind.__repr__ = describe
        return kind

    return decorate
