"""Ok-Topk's regions and thresholds, the same on all workers.

A region is the part of the flat vector that one worker sums for all. The bounds are averages of the workers' proposals,
so that each region has about k / n of the indices that a worker selects (the paper's balanced regions).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gradwire.ask import AllReduce
from gradwire.exchange.protocol import State, tensor
from gradwire.layout import Turn


@dataclass(frozen=True)
class Regions:
    """Regions and thresholds, used until they are computed again.

    Attributes:
        bounds: n + 1 indices from 0 to d; region r is from bounds[r] to bounds[r + 1].
        local: each worker's threshold of its own values; 0 if it sends all.
        common: the threshold of the sums; 0 if all are sent.
    """

    bounds: tuple[int, ...]
    local: tuple[float, ...]
    common: float

    @staticmethod
    def read(state: State, n: int, d: int) -> Regions | None:
        """Read the regions from a state; None if it has none for n workers and d elements, as before the first step."""
        kept = tensor(state, "plan")
        if kept.shape != (2, n + 1):
            return None
        ends, (*local, common) = [round(end) for end in _numbers(kept[0])], _numbers(kept[1])
        return Regions(tuple(ends), tuple(local), common) if ends == sorted(ends) and ends[::n] == [0, d] else None

    def write(self, state: State) -> None:
        """Write the regions to a state, f64[2, n + 1]: row 0 the bounds, row 1 the local and the common thresholds."""
        device = tensor(state, "plan").device
        state["plan"] = torch.tensor([self.bounds, (*self.local, self.common)], dtype=torch.float64, device=device)

    @property
    def largest(self) -> int:
        """The number of elements of the largest region."""
        return max(end - start for start, end in zip(self.bounds, self.bounds[1:], strict=False))


async def propose(selected: Tensor, threshold: float, d: int, turn: Turn) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Agree on the regions and gather all local thresholds, by one AllReduce of f64[2 n - 1].

    Args:
        selected: int64[m], the increasing indices that this worker selects; it proposes regions with m / n each.
        threshold: this worker's threshold.
        d: the number of elements.
        turn: the worker's turn.

    Raises:
        ValueError: the averages are not finite, or do not form bounds from 0 to d.
    """
    n, rank = turn.size, cast(int, turn.rank)
    m = len(selected)
    cuts = [selected[m * j // n] if m else selected.new_tensor(d * j // n) for j in range(1, n)]
    own = [threshold if worker == rank else 0.0 for worker in range(n)]
    proposal = torch.cat(
        [torch.tensor(own, dtype=torch.float64, device=selected.device), *(cut.double().view(1) for cut in cuts)]
    )
    sums = _numbers(await AllReduce(proposal))
    if not all(map(math.isfinite, sums)):
        raise ValueError(f"oktopk: the workers propose thresholds and regions that are not finite: {sums}")
    bounds = (0, *(round(total / n) for total in sums[n:]), d)
    if list(bounds) != sorted(bounds):
        raise ValueError(f"oktopk: the workers propose regions that end at {bounds[1:]} of {d}")
    return bounds, tuple(sums[:n])


def _numbers(values: Tensor) -> Sequence[float]:
    return cast(Sequence[float], values.tolist())
