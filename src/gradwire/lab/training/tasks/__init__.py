"""Three tasks like those of the DEFT paper, with small models and installable data, that train on one CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from gradwire.lab.checks import check_name
from gradwire.lab.training.tasks.language import Language
from gradwire.lab.training.tasks.protocol import Settings, Task
from gradwire.lab.training.tasks.recommendation import Recommendation
from gradwire.lab.training.tasks.vision import Vision

TASKS: Mapping[str, Callable[..., Task]] = MappingProxyType(
    {"vision": Vision, "language": Language, "recommendation": Recommendation}
)
"""Constructors by name; all take `data`, a path to read instead of the installed data, and `unlike`."""


def make(name: str, data: str | Path | None = None, unlike: bool = False) -> Task:
    """Make a task by name; ValueError if it is unknown. With `unlike`, workers have unlike data."""
    check_name("task", name, TASKS)
    return TASKS[name](None if data is None else Path(data), unlike)


__all__ = ["TASKS", "Settings", "Task", "make"]
