"""The parts of an exchange, and which of them are made for a number of workers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import Field, fields, is_dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class ForWorkers(Protocol):
    """A part whose hyperparameters fit some numbers of workers only."""

    def check_workers(self, size: int) -> None:
        """Refuse another number of workers (ValueError)."""
        ...


def parts_of(part: object) -> Iterable[object]:
    """A part and all parts inside it."""
    yield part
    for inner in _inside(part):
        yield from parts_of(inner)


def check_workers(exchange: object, size: int) -> None:
    """Refuse an exchange with a part that does not fit so many workers (ValueError).

    What is inside a part that is made for a number of workers is that part's to check: it may see fewer of them.
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
