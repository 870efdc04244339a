"""Outer SGD with Nesterov's momentum, as DiLoCo uses it (Douillard et al. 2023, arXiv:2311.08105).

b = momentum * b + mean; anchor -= lr * (mean + momentum * b): torch.optim.SGD with nesterov=True, given the mean as
its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.checks import is_number
from gradwire.exchange.protocol import State, tensor
from gradwire.layout import Layout
from gradwire.outer.sgd import check_lr
from gradwire.registry import part
from gradwire.vector import Vector


@part("nesterov", "outer", example="nesterov(lr=0.7, momentum=0.9)")
@dataclass(frozen=True)
class Nesterov:
    """Nesterov's momentum over rounds, for dense messages and long rounds (every >= 100).

    Args:
        lr: the outer learning rate, above 0.
        momentum: in (0, 1).
    """

    lr: float = 0.7
    momentum: float = 0.9

    def __post_init__(self) -> None:
        check_lr(self.lr)
        if not is_number(self.momentum) or not 0 < self.momentum < 1:
            raise ValueError(f"momentum must lie in (0, 1), got {self.momentum!r}; without momentum use sgd")
        object.__setattr__(self, "lr", float(self.lr))
        object.__setattr__(self, "momentum", float(self.momentum))

    def init(self, layout: Layout, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> State:
        """Make the momentum, zeros [d]."""
        return {"momentum": torch.zeros(layout.d, dtype=dtype, device=device)}

    def __call__(self, anchor: Tensor, mean: Vector, state: State, size: int) -> None:
        """Update the momentum and move the anchor f[d], both in place."""
        b = tensor(state, "momentum")
        mean.add_to_(b.mul_(self.momentum))
        mean.add_to_(anchor, alpha=-self.lr)
        anchor.add_(b, alpha=-self.lr * self.momentum)
