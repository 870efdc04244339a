"""MiCRO: each worker sends what reaches a common threshold in its part of the vector (HiPC 2023, arXiv:2310.00967).

Yoon and Oh's successor of DEFT: no sorting, no norms, no plan to share, and one pass over d / n values a worker.

rank r at step t of n workers                                                       per step and worker
-----------------------------------------------------------------------------------------------------------------
AllGather  where there is no threshold: the largest values of a sample (threshold.py)  4 min(k, 511) bytes at most
select  what reaches it in part (t + r) % n, or else place t % size of the part     nothing
AllGather  how many, then which: gaps inside the part, bit-packed, padded              4 + max_r k_r indices
AllReduce  everybody's values at all k' indices                                        4 k'
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.exchange.protocol import State
from gradwire.exchange.threshold import Control, Span, Start, rank_of, search
from gradwire.layout import Layout, Turn
from gradwire.registry import part
from gradwire.vector import Sent, widen


@part("micro", "exchange", example="ef(micro(density=0.01))")
@dataclass(frozen=True)
class MiCRO:
    """Every worker searches its own part of the vector for what reaches a threshold that keeps the density.

    Args:
        density: k / d, the share of values that is sent, kept between 0.909 and 1.1 of it where gradients are steady.
        start: "sample", which fits every gradient, or "formula", the authors' 1 / (2 sqrt(k)) (threshold.py).
        official: follow the authors' code where it surely slipped: inside its band the threshold only rises.
    """

    density: float
    start: Start = "sample"
    official: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", self._control.density)

    @property
    def _control(self) -> Control:
        return Control(self.density, self.start, self.official)

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        """No threshold yet: zeros [1], common to all workers."""
        return {"threshold": torch.zeros(1, dtype=dtype, device=device)}

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Three asks a step, and one more where the threshold is sampled."""
        rank, spans = rank_of(turn, "micro"), partition(x.shape[-1], turn.size)
        sent, _ = await search(self._control, widen(x), spans, state, rank, turn.step)
        return sent

    def omega(self, d: int) -> float | None:
        """None: biased."""
        return None

    def delta(self, d: int) -> float | None:
        """0: a projection, never expansive; but what others select need not be large here, so no more is certain."""
        return 0.0


def partition(d: int, n: int) -> list[Span]:
    """Cut [0, d) into n spans (start, end) that differ by one at most, the longer ones first; empty where n > d."""
    least, longer = divmod(d, n)
    edges = [part * least + min(part, longer) for part in range(n + 1)]
    return list(itertools.pairwise(edges))
