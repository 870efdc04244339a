"""What rehearsed workers bring: gradients that differ as measured ones do.

If all workers of a rehearsal brought one gradient, all would select the same values, and the union of n selections
would be a single selection. So a few ranks' gradients are measured, each on its own batch. They are those of the first
ranks. Of m measured gradients, any other rank's is a draw from the normal distribution with their mean and covariance,

    g = mean + sum over j of z_j (g_j - mean),   z_j ~ N(0, 1 / (m - 1)),

with new z for every row of a tensor. So what the ranks have in common, how far they differ, and where values are large
are as measured, and n ranks differ in more than m directions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gradients:
    """Gradients of any number of workers.

    measured: of the first m ranks, [m, *shape] by id of tensor. If m is 1, all workers bring the same. together: ranks
    whose mean a worker brings, as the members of an island do.
    """

    measured: Mapping[int, Tensor]
    together: int = 1

    @property
    def alike(self) -> bool:
        """Whether all workers bring the same."""
        return all(len(each) == 1 for each in self.measured.values())

    def islands(self, size: int) -> Gradients:
        """The means of islands of `size` ranks: worker j brings that of island j."""
        return replace(self, together=size)

    def write_(self, rooms: Mapping[int, Tensor], worker: int) -> None:
        """Overwrite every tensor's room with what a worker brings."""
        rng = torch.Generator().manual_seed(worker)
        ranks = range(worker * self.together, (worker + 1) * self.together)
        for tensor, room in rooms.items():
            measured = self.measured[tensor]
            if len(measured) == 1:
                room.copy_(measured[0])
            elif ranks.stop <= len(measured):
                torch.mean(measured[ranks.start : ranks.stop], 0, out=room)
            else:
                rows = measured.flatten(2) if measured.ndim > 2 else measured.view(len(measured), -1, 1)
                weights = _weights(ranks, len(measured), rows.shape[1], rng).to(rows.device, rows.dtype)
                room.copy_(torch.einsum("mr,mrc->rc", weights, rows).view(measured.shape[1:]))


def of_ranks(tensors: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]]) -> Gradients:
    """The measured gradients of the first ranks, each a list with one for every tensor."""
    stacked = (torch.stack(list(each)) for each in zip(*gradients, strict=True))
    return Gradients(dict(zip(map(id, tensors), stacked, strict=True)))


def _weights(ranks: range, m: int, rows: int, rng: torch.Generator) -> Tensor:
    """f32[m, rows]: of the measured gradients in the mean of some ranks, of whom those from m on are drawn."""
    drawn = ranks.stop - max(ranks.start, m)
    noise = torch.randn(m, rows, generator=rng) * math.sqrt(drawn / (m - 1))
    weights = noise - noise.mean(0) + drawn / m
    weights[ranks.start : m] += 1.0
    return weights / len(ranks)
