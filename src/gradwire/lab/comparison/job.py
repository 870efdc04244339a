"""The settings of one run of the small GPT, equal on all ranks, and the events that it reports."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradwire.lab.ways import NONE, check_way, powersgd_rank

OPTIMIZERS = ("adamw", "sgd")


@dataclass(frozen=True)
class TrainingJob:
    """Settings of a training run of the small GPT on the corpus, for `seconds` of training or `steps` steps.

    exchange: a method of `lab.ways`, such as a spec. batch: sequences per rank and step, of `context` bytes each.
    optimizer: "adamw" with torch's defaults, or "sgd" with Nesterov momentum 0.8; gradients are clipped to norm `clip`.
    learning_rate: the peak, reached after `warmup` steps; a cosine over the budget lowers it to `floor` times the peak
    (1: constant). evaluate_every: seconds of training between evaluations. target: a held-out loss that ends the run.
    rehearsed: send nothing in the first, dense steps of torch's PowerSGD, so that timings are those of later steps.
    save, resume: folders of checkpoints, with one file a rank.
    """

    exchange: str
    seconds: float = 60.0
    steps: int = 1_000_000
    seed: int = 0
    width: int = 128
    depth: int = 4
    heads: int = 4
    context: int = 64
    batch: int = 4
    optimizer: str = "adamw"
    learning_rate: float = 0.002
    clip: float = 1.0
    warmup: int = 20
    floor: float = 0.1
    evaluate_every: float = 2.0
    target: float | None = None
    bucket_mb: float | None = None
    rehearsed: bool = False
    save: str | None = None
    resume: str | None = None

    def __post_init__(self) -> None:
        check_way(self.exchange)
        if self.exchange == NONE:
            raise ValueError("none does not average, so ranks would train apart: it is for gradwire bench only")
        if powersgd_rank(self.exchange) and (self.save or self.resume):
            raise ValueError(f"{self.exchange} is torch's hook, whose memory cannot be saved: it cannot be resumed")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"the optimizer must be {' or '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if not self.learning_rate > 0 or not 0 <= self.floor <= 1:
            raise ValueError(f"a learning rate is above 0, its floor in [0, 1], got {self.learning_rate}, {self.floor}")
        if not self.seconds > 0 or self.steps < 1:
            raise ValueError(f"a run needs a budget, got {self.seconds:g} seconds and {self.steps} steps")
        if self.width % self.heads or min(self.width, self.depth, self.heads, self.context, self.batch) < 1:
            raise ValueError(f"the width must be a multiple of the heads, got {self.width} and {self.heads}")


def rate_at(job: TrainingJob, step: int, spent: float) -> float:
    """The learning rate of a step, counted from 0, when the fraction `spent` of the budget is used up."""
    cosine = job.floor + (1 - job.floor) * (1 + math.cos(math.pi * min(spent, 1.0))) / 2
    return job.learning_rate * min(1.0, (step + 1) / job.warmup) * cosine


@dataclass(frozen=True)
class Started:
    """The event that training begins. parameters: of the model. step: the first step's number, 0 unless resumed."""

    parameters: int
    step: int


@dataclass(frozen=True)
class Pulse:
    """A progress event: steps and seconds of training so far."""

    step: int
    seconds: float
