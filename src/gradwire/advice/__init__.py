"""Advice: what a step would take with each method, on this machine, this group and this model, before anything is run.

timeline   what overlaps what in a step: a pure function of seconds
link       alpha and beta of every kind of collective, fitted to timed ones
pace       when a model's gradients become ready, measured in a few steps
rounds     local steps: one exchange of differences by rehearsal, and how many steps a round needs
work       what a method brings to the network's lane, by rehearsal: no network, any number of ranks
verdict    predicted steps, ranked; crossover bandwidths; compress or not
"""

from gradwire.advice.link import HALF, KINDS, Cost, Link, fit, probe
from gradwire.advice.pace import Pace, Watch, buckets
from gradwire.advice.rounds import LOCAL_CANDIDATES, LocalRound, local_rounds
from gradwire.advice.timeline import Job, Part, step_seconds
from gradwire.advice.verdict import CANDIDATES, MARGIN, Method, Verdict, crossover, judge, predict
from gradwire.advice.work import Errand, dense, errands, fp16

__all__ = [
    "CANDIDATES",
    "HALF",
    "KINDS",
    "LOCAL_CANDIDATES",
    "MARGIN",
    "Cost",
    "Errand",
    "Job",
    "Link",
    "LocalRound",
    "Method",
    "Pace",
    "Part",
    "Verdict",
    "Watch",
    "buckets",
    "crossover",
    "dense",
    "errands",
    "fit",
    "fp16",
    "judge",
    "local_rounds",
    "predict",
    "probe",
    "step_seconds",
]
