"""The protocol of tasks: a model, a worker's loss at a step, an evaluation, and default settings."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

Optimizer = Literal["sgd", "adam", "adamw", "muon"]
RateSchedule = Literal["constant", "cosine"]


@dataclass(frozen=True)
class Settings:
    """Settings of training. Every task has defaults with which it trains well.

    batch: samples a worker and step. lr: the learning rate. momentum: Nesterov momentum of SGD; Adam has `betas`
    instead. weight_decay: of matrices, for AdamW and Muon. clip: the largest norm of a worker's own gradient before
    compression; 0 for no limit. evaluate_every: steps between evaluations. decay: fractions of the run after which the
    learning rate falls to a tenth. schedule: with "cosine" it falls to a tenth along half a cosine. warmup_steps: steps
    of a linear warm-up of the learning rate.
    """

    model: str
    batch: int
    lr: float
    steps: int
    evaluate_every: int
    optimizer: Optimizer = "sgd"
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 0.0
    decay: tuple[float, ...] = ()
    schedule: RateSchedule = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0

    def under_adamw(self, lr: float, warmup_steps: int) -> Settings:
        """The same run under AdamW, with the cosine, betas (0.9, 0.95) and weight decay 0.1 of language models."""
        return replace(
            self,
            lr=lr,
            optimizer="adamw",
            momentum=0.0,
            betas=(0.9, 0.95),
            clip=1.0,
            decay=(),
            schedule="cosine",
            warmup_steps=warmup_steps,
            weight_decay=0.1,
        )


class Task(Protocol):
    """A task's data and models. Every method is a function of its arguments, so the same seed gives the same run."""

    @property
    def name(self) -> str:
        """The task's name in TASKS."""
        ...

    @property
    def metric(self) -> str:
        """The name of the metric by which runs are compared, a key of what `evaluate` returns."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger metric is better."""
        ...

    @property
    def defaults(self) -> Settings:
        """The default settings."""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """Names of models, the default first."""
        ...

    @property
    def source(self) -> str:
        """What the data are, and where they were found."""
        ...

    def adamw(self, model: str | None) -> Settings:
        """The default settings under AdamW or Muon for a model; None is the default model."""
        ...

    def model(self, name: str | None, seed: int) -> nn.Module:
        """Make a model; None is the default one. Equal seeds give equal bits. ValueError for an unknown name."""
        ...

    def loss(self, model: nn.Module, worker: int, workers: int, step: int, batch: int, seed: int) -> Tensor:
        """The mean loss f[] on a worker's batch at a step, which is a function of (seed, step, worker)."""
        ...

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Compute metrics by name on held-out data, which is always the same."""
        ...

    def steps_per_epoch(self, workers: int, batch: int) -> int:
        """Steps in which all workers together see the training data once; ValueError if the data do not fill one."""
        ...


def rng(*what: int | str) -> torch.Generator:
    """Make a generator seeded by a hash of `what`, such as (seed, step, worker)."""
    key = hashlib.blake2b(repr(what).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)


def steps_in(samples: int, what: str, workers: int, batch: int) -> int:
    """Whole steps in an epoch of so many samples; ValueError, naming `what` they are, if they do not fill one."""
    if samples < workers * batch:
        raise ValueError(f"{workers} workers with batches of {batch} need {workers * batch:,} {what}, got {samples:,}")
    return samples // (workers * batch)


def part(samples: int, worker: int, workers: int, step: int, batch: int, seed: int) -> Tensor:
    """Choose a worker's samples at a step: int64[batch]. Every epoch is shuffled and split into whole steps."""
    epoch, place = divmod(step, samples // (workers * batch))
    first = (place * workers + worker) * batch
    return _order(samples, seed, epoch)[first : first + batch]


def own_part(keys: Tensor, worker: int, workers: int, step: int, batch: int, seed: int) -> Tensor:
    """Choose a worker's samples at a step if workers have unlike data: int64[batch].

    Samples are sorted by their keys, int64[m], and split into equal ranges, one a worker, each shuffled by itself.
    """
    own = keys.argsort(stable=True).tensor_split(workers)[worker]
    return own[part(len(own), 0, 1, step, batch, seed + worker)]


@functools.lru_cache(maxsize=16)
def _order(samples: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(samples, generator=rng("order", seed, epoch))


def check_file(path: Path) -> Path:
    """Return the path; FileNotFoundError if there is no such file."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} to read data from")
    return path
