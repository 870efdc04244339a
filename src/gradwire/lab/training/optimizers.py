"""The optimizers of a run. One optimizer steps one model's parameters, or in one call those of all n workers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from gradwire.lab.training.tasks.protocol import Settings

FALL = 0.1
"""The factor of the learning rate at each decay, and at the end of a cosine."""


class Steps(Protocol):
    """The protocol of a run's optimizer."""

    def step(self) -> Any:
        """Move the parameters by their gradients."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state to save in a checkpoint."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        ...

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters, each with its `lr`."""
        ...


class Both:
    """Two optimizers, of different parameters, as one."""

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer) -> None:
        self.first, self.second = first, second

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of the first optimizer, then those of the second."""
        return [*self.first.param_groups, *self.second.param_groups]

    def step(self) -> None:
        """Step both."""
        self.first.step()
        self.second.step()

    def state_dict(self) -> dict[str, Any]:
        """Both states."""
        return {"first": self.first.state_dict(), "second": self.second.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load both states."""
        self.first.load_state_dict(state_dict["first"])
        self.second.load_state_dict(state_dict["second"])


def make(settings: Settings, parameters: Sequence[Tensor]) -> Steps:
    """Make the optimizer of these parameters.

    SGD has Nesterov momentum. AdamW decays only matrices. Muon (Jordan et al. 2024), torch's implementation, steps
    matrices at AdamW's learning rate; AdamW steps the other parameters.

    Raises:
        ValueError: this version of torch has no Muon.
    """
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, settings.lr, settings.momentum, nesterov=settings.momentum > 0)
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, settings.lr, settings.betas)
    if settings.optimizer == "muon":
        flat = [param for param in parameters if param.ndim != 2]
        return Both(_muon(settings, [param for param in parameters if param.ndim == 2]), _adamw(settings, flat))
    return _adamw(settings, parameters)


def _adamw(settings: Settings, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    matrices, others = ([param for param in parameters if (param.ndim >= 2) == wanted] for wanted in (True, False))
    groups = [(matrices, settings.weight_decay), (others, 0.0)]
    return torch.optim.AdamW(
        [{"params": params, "weight_decay": decay} for params, decay in groups if params],
        settings.lr,
        settings.betas,
        fused=True,
    )


def _muon(settings: Settings, matrices: list[Tensor]) -> torch.optim.Optimizer:
    muon: Any = getattr(torch.optim, "Muon", None)
    if muon is None:
        raise ValueError(f"torch {torch.__version__} has no Muon: choose adamw, or install torch 2.9 or later")
    return muon(matrices, settings.lr, settings.weight_decay, adjust_lr_fn="match_rms_adamw")


def rate(settings: Settings, step: int) -> float:
    """The learning rate of a step, counted from 0."""
    falls = sum(step >= part * settings.steps for part in settings.decay)
    lr = settings.lr * FALL**falls
    if settings.schedule == "cosine":
        lr *= FALL + (1 - FALL) * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    return lr * min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else lr


def clip_(gradients: Tensor, most: float) -> None:
    """Scale every row of f[n, d] in place to a norm of at most `most`; 0: no limit."""
    if most:
        norms = gradients.square().sum(1, keepdim=True).sqrt_()
        gradients.mul_((most / (norms + 1e-6)).clamp_(max=1.0))
