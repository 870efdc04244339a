"""Figures of the laboratory: each is a list of runs, drawn and written down with the command that made it."""

from gradwire.lab.studies.figures.draw import draw
from gradwire.lab.studies.figures.record import Curve, Facts, Figure, curve, versions, write
from gradwire.lab.studies.figures.sheet import FIGURES, Sheet, Task, sheet

__all__ = [
    "FIGURES",
    "Curve",
    "Facts",
    "Figure",
    "Sheet",
    "Task",
    "curve",
    "draw",
    "sheet",
    "versions",
    "write",
]
