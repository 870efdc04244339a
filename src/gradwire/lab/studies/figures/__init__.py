"""Figures of convex runs: each is a list of runs, which is drawn and written to files with the command that made it."""

from gradwire.lab.studies.figures.draw import draw
from gradwire.lab.studies.figures.plans import FIGURES, PlannedCurve, PlannedFigure, plan
from gradwire.lab.studies.figures.record import Curve, Facts, Figure, curve, write

__all__ = [
    "FIGURES",
    "Curve",
    "Facts",
    "Figure",
    "PlannedCurve",
    "PlannedFigure",
    "curve",
    "draw",
    "plan",
    "write",
]
