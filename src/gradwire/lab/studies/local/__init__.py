"""Studies of local steps: methods, outer steps, numbers of workers, unlike data, delays; a small GPT under AdamW."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from gradwire.lab.studies.chart import Chart, Report
from gradwire.lab.studies.local import arms, choices
from gradwire.lab.studies.local.methods import METHODS, methods

STUDIES: Mapping[str, tuple[int, Callable[[int, Report], Chart]]] = MappingProxyType(
    {
        "local-methods": (arms.SEEDS * len(METHODS), methods),
        "local-outer": (arms.SEEDS * len(choices.OUTER), choices.outer),
        "local-workers": (len(choices.WORKERS), choices.workers),
        "local-unlike-data": (arms.SEEDS * len(choices.UNLIKE), choices.unlike),
        "local-delay": (arms.SEEDS * len(choices.DELAY), choices.delay),
    }
)
"""The number of runs and the function of each study, by name."""

__all__ = ["STUDIES"]
