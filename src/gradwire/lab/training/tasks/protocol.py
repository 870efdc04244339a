"""What a task is: a model, a worker's loss at a step, an evaluation, and settings by which it learns."""

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
    """How a run learns. Every task has defaults by which it learns well.

    batch: samples a worker and step. lr: of the optimizer. momentum: of SGD, Nesterov's form; Adam has `betas` instead.
    weight_decay: of matrices, by AdamW and Muon. clip: the largest norm of a worker's own gradient before compression,
    0 for no limit. evaluate_every: steps. decay: fractions of the run after which the learning rate falls to a tenth.
    schedule: "cosine" lets it fall to a tenth along half a cosine. warmup_steps: of a linear rise to it.
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
        """The same run by AdamW: cosine, betas (0.9, 0.95) and weight decay 0.1 as language models are trained."""
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
    """Data and models. Everything is a function of its arguments: the same seed gives the same run."""

    @property
    def name(self) -> str:
        """The task's name in TASKS."""
        ...

    @property
    def metric(self) -> str:
        """The number by which runs are compared, one of those that `evaluate` returns."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger metric is better."""
        ...

    @property
    def defaults(self) -> Settings:
        """Settings of a run where its caller gives none."""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """Names for `model`, the default first."""
        ...

    @property
    def source(self) -> str:
        """What the data are, and where they were found."""
        ...

    def adamw(self, model: str | None) -> Settings:
        """Settings of a run of this model, the default one if None, where the optimizer is AdamW or Muon."""
        ...

    def model(self, name: str | None, seed: int) -> nn.Module:
        """Make a model, the default one if name is None; equal seeds give equal bits. ValueError for unknown names."""
        ...

    def loss(self, model: nn.Module, worker: int, workers: int, step: int, batch: int, seed: int) -> Tensor:
        """Mean loss f[] on the micro-batch of a worker at a step: a function of (seed, step, worker)."""
        ...

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Measure on held-out data, always the same."""
        ...

    def steps_per_epoch(self, workers: int, batch: int) -> int:
        """Steps in which all workers together see the training data once. ValueError if there are too few for one."""
        ...


def rng(*what: int | str) -> torch.Generator:
    """Open a generator whose numbers are a function of `what`, such as (seed, step, worker)."""
    key = hashlib.blake2b(repr(what).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)


def share(samples: int, what: str, workers: int, batch: int) -> int:
    """Steps in an epoch of so many samples. ValueError if not even one step can be filled."""
    if samples < workers * batch:
        raise ValueError(f"{workers} workers with batches of {batch} need {workers * batch:,} {what}, got {samples:,}")
    return samples // (workers * batch)


def part(samples: int, worker: int, workers: int, step: int, batch: int, seed: int) -> Tensor:
    """Choose a worker's samples at a step: int64[batch]. Epochs are shuffled and dealt in whole steps."""
    epoch, place = divmod(step, samples // (workers * batch))
    first = (place * workers + worker) * batch
    return _order(samples, seed, epoch)[first : first + batch]


def own_part(keys: Tensor, worker: int, workers: int, step: int, batch: int, seed: int) -> Tensor:
    """Choose a worker's samples at a step where workers' data are unlike: int64[batch].

    Samples are sorted by their keys int64[m] and cut into equal runs, one a worker, who shuffles its own.
    """
    own = keys.argsort(stable=True).tensor_split(workers)[worker]
    return own[part(len(own), 0, 1, step, batch, seed + worker)]


@functools.lru_cache(maxsize=16)
def _order(samples: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(samples, generator=rng("order", seed, epoch))


def check_file(path: Path) -> Path:
    """Return a file's path; FileNotFoundError if there is no such file."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} to read data from")
    return path
