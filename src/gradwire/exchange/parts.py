"""The parts of an exchange, and which of them are made for a number of workers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
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
    if is_dataclass(part) and not isinstance(part, type):
        for field in fields(part):
            yield from parts_of(getattr(part, field.name))


def check_workers(exchange: object, size: int) -> None:
    """Refuse an exchange with a part that does not fit so many workers (ValueError)."""
    for part in parts_of(exchange):
        if isinstance(part, ForWorkers):
            part.check_workers(size)
