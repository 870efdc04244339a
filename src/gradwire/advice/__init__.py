"""Advice: predict a training step with each method, for this machine, process group and model, without running it.

timeline   the time of a step in which computing and communication overlap: a pure function of seconds
link       latency and bandwidth of every kind of collective, fitted to timed calls
pace       when a model's gradients become ready, measured in a few steps
rounds     local steps: one rehearsed exchange of differences, and how many steps a round needs
work       the communication and computing of a method, by rehearsal: no network, any number of ranks
verdict    predicted steps, ranked; crossover bandwidths; compress or not
"""

from gradwire.advice.link import HALF, KINDS, Cost, Link, fit, probe
from gradwire.advice.pace import Pace, Watch, buckets
from gradwire.advice.rounds import LOCAL_CANDIDATES, LocalRound, local_rounds
from gradwire.advice.timeline import Job, Part, step_seconds
from gradwire.advice.verdict import CANDIDATES, MARGIN, Method, Verdict, crossover, judge, predict
from gradwire.advice.work import UnitWork, dense, fp16, rehearse_units

__all__ = [
    "CANDIDATES",
    "HALF",
    "KINDS",
    "LOCAL_CANDIDATES",
    "MARGIN",
    "Cost",
    "Job",
    "Link",
    "LocalRound",
    "Method",
    "Pace",
    "Part",
    "UnitWork",
    "Verdict",
    "Watch",
    "buckets",
    "crossover",
    "dense",
    "fit",
    "fp16",
    "judge",
    "local_rounds",
    "predict",
    "probe",
    "rehearse_units",
    "step_seconds",
]
