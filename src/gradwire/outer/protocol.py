"""The protocol of outer steps.

After H local steps worker r holds theta_r, and x_r = anchor - theta_r is its difference to where all of them started.
An exchange averages the x_r; an outer step moves the anchor by that mean, the same on all workers.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gradwire.exchange.protocol import State
from gradwire.layout import Layout
from gradwire.vector import Vector


@runtime_checkable
class Outer(Protocol):
    """A frozen dataclass of hyperparameters; its repr is its spec. Deterministic: all workers must move alike."""

    def init(self, layout: Layout, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> State:
        """Make the state before the first round: a nest of tensors [d], the same on all workers."""
        ...

    def __call__(self, anchor: Tensor, mean: Vector, state: State, size: int) -> None:
        """Move the anchor f[d] in place by the mean of `size` workers' differences, which points away from where to go.

        Without an outer step worth the name, `anchor -= mean`: the workers' parameters are averaged.
        """
        ...
