"""MiCRO: each worker sends the values of its part that reach a common threshold (HiPC 2023, arXiv:2310.00967).

Yoon and Oh's successor of DEFT. It needs no sorting, norms or broadcast plan, and each worker reads d / n values once.

rank r at step t of n workers                                                       per step and worker
-----------------------------------------------------------------------------------------------------------------
AllGather  if there is no threshold: the largest values of a sample (threshold.py)     4 min(k, 511) bytes at most
select  the values of part (t + r) % n that reach it; if none, index t % its size   nothing
AllGather  count, and indices as bit-packed gaps inside the part, padded               4 + 1.25 k / n indices
AllGather  the remaining indices, if a worker has found more                           max_r k_r - 1.25 k / n
AllReduce  all workers' values at all k' indices                                       4 k'
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
    """Each worker searches its own part of the vector for values that reach a threshold, adapted to the density.

    Args:
        density: k / d, the fraction of values to send; with steady gradients the fraction that is sent stays between
            0.909 and 1.1 times this.
        start: the first threshold: "sample", for any gradient, or "formula", the authors' 1 / (2 sqrt(k))
            (threshold.py).
        official: reproduce an error in the authors' code: for 0.909 < k' / k <= 1 the threshold rises instead of
            falling.
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
        """Make the threshold, replicated, 0 [1] for none yet."""
        return {"threshold": torch.zeros(1, dtype=dtype, device=device)}

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Use two collectives; one more if the threshold is sampled, and one if a part has far more than k / n."""
        rank, spans = rank_of(turn, "micro"), partition(x.shape[-1], turn.size)
        sent, _ = await search(self._control, widen(x), spans, state, rank, turn.step)
        return sent

    def omega(self, d: int) -> float | None:
        """Return None: it is biased."""
        return None

    def delta(self, d: int) -> float | None:
        """Return 0: a projection, but the values that other workers select need not be large here."""
        return 0.0


def partition(d: int, n: int) -> list[Span]:
    """Cut [0, d) into n spans (start, end) whose lengths differ by at most 1, the longer ones first; empty if n > d."""
    shorter, longer = divmod(d, n)
    edges = [part * shorter + min(part, longer) for part in range(n + 1)]
    return list(itertools.pairwise(edges))
