"""Plain outer SGD, over all workers or over those that sent a coordinate.

anchor -= lr * mean. With lr 1 and an exchange that loses nothing this averages the workers' parameters (local SGD,
Stich 2019, arXiv:1805.09767).

Sparse messages of n workers hardly overlap: most coordinates of the mean are one worker's value divided by n, a step n
times too short. With mean="senders" coordinate i moves by the mean over the n_i workers that sent it, which is n / n_i
times the mean over all. SparseLoCo's code does this (Sarfi et al. 2025, arXiv:2508.15706); its paper writes the mean
over all. The law of exchanges is not affected: the exchange returns the mean over all workers, and n_i is counted from
the gathered indices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from gradwire.checks import is_number
from gradwire.exchange.protocol import State
from gradwire.layout import Layout
from gradwire.registry import part
from gradwire.vector import Sparse, Vector

Over = Literal["all", "senders"]


@part("sgd", "outer", example="sgd(lr=1.0, mean='senders')")
@dataclass(frozen=True)
class SGD:
    """Move by lr times the mean, over all workers or over a coordinate's senders.

    Args:
        lr: the outer learning rate, above 0.
        mean: "all", or "senders" for exchanges that gather sparse messages. Where every worker sends every coordinate
            of the mean (dense messages, DEFT, shifted methods) the two are the same.
    """

    lr: float = 1.0
    mean: Over = "all"

    def __post_init__(self) -> None:
        check_lr(self.lr)
        if self.mean not in get_args(Over):
            raise ValueError(f"mean must be 'all' or 'senders', got {self.mean!r}")
        object.__setattr__(self, "lr", float(self.lr))

    def init(self, layout: Layout, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> State:
        """Return no state."""
        return {}

    def __call__(self, anchor: Tensor, mean: Vector, state: State, size: int) -> None:
        """anchor f[d] -= lr * mean, in place: k writes if the mean is sparse."""
        if self.mean == "senders" and isinstance(mean, Sparse):
            mean = mean.over_senders(size)
        mean.add_to_(anchor, alpha=-self.lr)


def check_lr(lr: float) -> None:
    """Raise ValueError unless lr is a number above 0."""
    if not is_number(lr) or not lr > 0:
        raise ValueError(f"lr must be above 0, got {lr!r}")
