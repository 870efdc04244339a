"""Checkpoints of a run: one file for all workers, the same whether they share a process or not.

    {"format": 1, "training": {...}, "step": 120, "seconds": 9.5, "model": {...}, "optimizer": {...},
     "memory": [{"error": tensor, ...}, ... one a worker]}

A checkpoint holds only tensors, numbers and strings. Randomness is a function of seed and step, so no generator is
saved.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from gradwire.lab.averager import Averager, Memory
from gradwire.lab.training.memory import put_
from gradwire.lab.training.optimizers import Steps
from gradwire.lab.training.settings import Training

FORMAT = 1
PARTS = {"format", "training", "step", "seconds", "model", "optimizer", "memory"}
FREE = {"steps", "learning_rate", "evaluate_every", "decay", "data"}
"""Settings that may change when a run is resumed. Decays are fractions of the run, so they move with its steps."""


def save_whole(
    file: Path,
    training: Training,
    step: int,
    seconds: float,
    model: nn.Module,
    optimizer: Steps,
    averager: Averager,
) -> None:
    """Write a checkpoint atomically; of several processes, the first one writes it."""
    memory = averager.memories()
    if not memory:
        return
    settings = asdict(training)
    settings["decay"] = list(training.decay or ())
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    part = file.with_name(f"{file.name}.part")
    torch.save(
        {"format": FORMAT, "training": settings, "step": step, "seconds": seconds, "memory": memory} | states, part
    )
    os.replace(part, file)


def load(file: Path, training: Training, model: nn.Module, optimizer: Steps, averager: Averager) -> tuple[int, float]:
    """Restore model, optimizer and states from a checkpoint; return its step and seconds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint, or is one of another run.
    """
    saved = _read(file)
    try:
        _check(file, saved, training)
    except (TypeError, AttributeError, KeyError):
        raise ValueError(f"{file} is not a checkpoint of a training run") from None
    try:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        for worker, state in zip(averager.workers, averager.states, strict=True):
            put_(
                state,
                cast(list[Memory], saved["memory"])[worker],
                sum(param.numel() for param in model.parameters() if param.requires_grad),
            )
    except Exception as error:
        words = " ".join(str(error).split())
        raise ValueError(f"the checkpoint {file} does not fit this run: {words[:200]}") from None
    return saved["step"], saved["seconds"]


def _read(file: Path) -> dict[str, Any]:
    """Read a checkpoint file; FileNotFoundError or ValueError if it is none."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no checkpoint {file}")
    try:
        saved = torch.load(file, weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{file} is not a checkpoint of a training run: {reason}") from None
    if not isinstance(saved, dict) or cast(dict[str, Any], saved).keys() != PARTS:
        raise ValueError(f"{file} is not a checkpoint of a training run")
    return cast(dict[str, Any], saved)


def _check(file: Path, saved: dict[str, Any], training: Training) -> None:
    """Raise ValueError for another format, other settings, or values that are not finite."""
    if saved["format"] != FORMAT:
        raise ValueError(f"{file} has format {saved['format']}, this gradwire reads format {FORMAT}")
    theirs, ours = Training.from_dict(saved["training"]).filled(), training
    for name in (name for name in asdict(ours) if name not in FREE):
        if getattr(theirs, name) != getattr(ours, name):
            raise ValueError(
                f"the checkpoint {file} is of {name} {getattr(theirs, name)}, this run is of {getattr(ours, name)}"
            )
    if saved["step"] < 0:
        raise ValueError(f"the checkpoint {file} is of step {saved['step']}, which must not be negative")
    if saved["step"] > training.settings.steps:
        raise ValueError(f"the checkpoint {file} is of step {saved['step']}, and this run ends at {training.steps}")
    tensors = [*saved["model"].values(), *(values for memory in saved["memory"] for values in memory.values())]
    if not all(bool(values.isfinite().all()) for values in tensors if isinstance(values, Tensor)):
        raise ValueError(f"the checkpoint {file} holds a value that is not finite")
