"""Predict the time of a step with any number of workers, from rehearsed work and a model of the network.

works = scale.run(scale.ScalePlan("mlp", ("dense", "ef(deft(density=0.01))"), sizes=(2, 64, 1024)))
"""

from gradwire.lab.scale.plan import METHODS, MOST, ScalePlan
from gradwire.lab.scale.predict import Forecast, Prediction, best, crossovers, predictions
from gradwire.lab.scale.run import run
from gradwire.lab.scale.work import Work, work_of

__all__ = [
    "METHODS",
    "MOST",
    "Forecast",
    "Prediction",
    "ScalePlan",
    "Work",
    "best",
    "crossovers",
    "predictions",
    "run",
    "work_of",
]
