"""Ok-Topk's plan: whose region is where, and from which magnitude on a value counts. The same on all workers.

A region is the part of the flat vector that one worker sums for all. Regions are cut so that each holds about k / n of
what a worker selects, by the average of the workers' own proposals (the paper's balanced regions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gradwire.ask import AllReduce
from gradwire.exchange.protocol import State, tensor
from gradwire.layout import Turn


@dataclass(frozen=True)
class Plan:
    """Facts that hold until they are found anew.

    bounds: n + 1 places from 0 to d; region r reaches from bounds[r] to bounds[r + 1].
    local: for each worker the least magnitude of its own that it says; 0 where it says all it has.
    common: the least magnitude of a sum that is said to everybody; 0 for all there are.
    """

    bounds: tuple[int, ...]
    local: tuple[float, ...]
    common: float

    @staticmethod
    def read(state: State, n: int, d: int) -> Plan | None:
        """The plan of a state, or None if there is none for n workers and d elements, as before the first step."""
        replicated = tensor(state, "plan")
        if replicated.shape != (2, n + 1):
            return None
        ends, (*local, common) = [round(end) for end in _numbers(replicated[0])], _numbers(replicated[1])
        return Plan(tuple(ends), tuple(local), common) if ends == sorted(ends) and ends[::n] == [0, d] else None

    def write(self, state: State) -> None:
        """Keep the plan in a state, f64[2, n + 1]: the bounds; local, then common."""
        device = tensor(state, "plan").device
        state["plan"] = torch.tensor([self.bounds, (*self.local, self.common)], dtype=torch.float64, device=device)

    @property
    def largest(self) -> int:
        """Elements of the largest region."""
        return max(end - start for start, end in zip(self.bounds, self.bounds[1:], strict=False))


async def propose(mine: Tensor, level: float, d: int, turn: Turn) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Agree on regions and hear everybody's threshold, by one AllReduce of f64[2 n - 1].

    Args:
        mine: int64[m], increasing places below d that this worker selects; each region gets m / n of them in its view.
        level: this worker's threshold.
    """
    n, rank = turn.size, cast(int, turn.rank)
    cuts = [mine[len(mine) * j // n] if len(mine) else mine.new_tensor(d * j // n) for j in range(1, n)]
    levels = [level if worker == rank else 0.0 for worker in range(n)]
    said = torch.cat(
        [torch.tensor(levels, dtype=torch.float64, device=mine.device), *(cut.double().view(1) for cut in cuts)]
    )
    heard = _numbers(await AllReduce(said))
    return (0, *(round(total / n) for total in heard[n:]), d), tuple(heard[:n])


def _numbers(values: Tensor) -> Sequence[float]:
    return cast(Sequence[float], values.tolist())
