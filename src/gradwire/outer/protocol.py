"""The protocol of outer steps.

After H local steps worker r holds the parameters theta_r, and x_r = anchor - theta_r is the difference to the common
start. An exchange averages the x_r; the outer step moves the anchor by their mean, equally on all workers.
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
    """A frozen dataclass of hyperparameters; its repr is its spec. Deterministic, so that all anchors stay equal."""

    def init(self, layout: Layout, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> State:
        """Make the state before the first round: a nest of tensors [d], the same on all workers."""
        ...

    def __call__(self, anchor: Tensor, mean: Vector, state: State, size: int) -> None:
        """Move the anchor f[d] in place by the mean of `size` workers' differences anchor - parameters.

        The simplest outer step is `anchor -= mean`, which averages the workers' parameters.
        """
        ...
