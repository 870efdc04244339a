"""Studies of sparsifiers and local steps in training: runs of real tasks, as charts and as files with their command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from gradwire.lab.models import shapes
from gradwire.lab.studies import breakdown, density, example, local, scaling, searching, tasks
from gradwire.lab.studies.chart import Chart, Line, Panel, Report, write
from gradwire.lab.studies.draw import draw


@dataclass(frozen=True)
class Study:
    """A study. make: computes a chart from a seed and reports every finished piece of work. pieces: their number."""

    pieces: int
    make: Callable[[int, Report], Chart]


STUDIES: MappingProxyType[str, Study] = MappingProxyType(
    {
        "deft-example": Study(1, example.example),
        "deft-scaling": Study(len(scaling.METHODS) * len(scaling.SIZES), scaling.scaling),
        "deft-density": Study(1 + len(density.DENSITIES), density.density),
        "deft-tasks": Study(tasks.pieces(), tasks.quality),
        "deft-tasks-adamw": Study(tasks.pieces(tasks.UNDER_ADAMW), tasks.adamw),
        "deft-selection": Study(len(shapes.MODELS) * len(searching.PACKINGS), searching.searching),
        "deft-breakdown": Study(len(breakdown.METHODS), breakdown.breakdown),
        **{name: Study(pieces, make) for name, (pieces, make) in local.STUDIES.items()},
    }
)
"""Studies by name."""

__all__ = ["STUDIES", "Chart", "Line", "Panel", "Report", "Study", "draw", "write"]
