"""Walk over the parts of an exchange, and check those that require a number of workers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import Field, fields, is_dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class ForWorkers(Protocol):
    """A part whose hyperparameters fit certain numbers of workers only."""

    def check_workers(self, size: int) -> None:
        """Raise ValueError for a number of workers that does not fit."""
        ...


def parts_of(part: object) -> Iterable[object]:
    """Yield a part and all parts inside it."""
    yield part
    for inner in _inside(part):
        yield from parts_of(inner)


def check_workers(exchange: object, size: int) -> None:
    """Raise ValueError if a part of an exchange does not fit this number of workers.

    A part with `check_workers` checks the parts inside itself, which may see fewer workers.
    """
    if isinstance(exchange, ForWorkers):
        exchange.check_workers(size)
    else:
        for part in _inside(exchange):
            check_workers(part, size)


def _inside(part: object) -> Iterable[object]:
    return (getattr(part, field.name) for field in _fields(part))


def _fields(part: object) -> tuple[Field[object], ...]:
    return fields(part) if is_dataclass(part) and not isinstance(part, type) else ()
