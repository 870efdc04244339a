"""Gradients of rehearsed workers, which differ as measured gradients do.

If all workers of a rehearsal had the same gradient, all would select the same values, and the union of n selections
would be a single selection. So m gradients are measured, each on a batch of its own, and the first m ranks use them.
Any other rank's gradient is drawn from the normal distribution with the mean and covariance of the measured ones,

    g = mean + sum over j of z_j (g_j - mean),   z_j ~ N(0, 1 / (m - 1)),

with new z for every row of a tensor. The common part, the differences and the places of large values are then as
measured, and n ranks differ in more than m directions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gradients:
    """Gradients for any number of workers.

    measured: the gradients of the first m ranks, [m, *shape] by id of tensor. If m is 1, all workers have the same
    gradient. together: number of ranks, such as the members of an island, whose mean gradient one worker has.
    """

    measured: Mapping[int, Tensor]
    together: int = 1

    @property
    def alike(self) -> bool:
        """Whether all workers have the same gradient."""
        return all(len(each) == 1 for each in self.measured.values())

    def islands(self, size: int) -> Gradients:
        """The same gradients averaged inside islands of `size` ranks: worker j has the mean of island j."""
        return replace(self, together=size)

    def write_(self, buffers: Mapping[int, Tensor], worker: int) -> None:
        """Write a worker's gradient into the buffers, given by id of tensor."""
        rng = torch.Generator().manual_seed(worker)
        ranks = range(worker * self.together, (worker + 1) * self.together)
        for tensor, buffer in buffers.items():
            measured = self.measured[tensor]
            if len(measured) == 1:
                buffer.copy_(measured[0])
            elif ranks.stop <= len(measured):
                torch.mean(measured[ranks.start : ranks.stop], 0, out=buffer)
            else:
                rows = measured.flatten(2) if measured.ndim > 2 else measured.view(len(measured), -1, 1)
                weights = _weights(ranks, len(measured), rows.shape[1], rng).to(rows.device, rows.dtype)
                buffer.copy_(torch.einsum("mr,mrc->rc", weights, rows).view(measured.shape[1:]))


def of_ranks(tensors: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]]) -> Gradients:
    """Make `Gradients` from the first ranks' measured gradients: one list a rank, with one gradient a tensor."""
    stacked = (torch.stack(list(each)) for each in zip(*gradients, strict=True))
    return Gradients(dict(zip(map(id, tensors), stacked, strict=True)))


def _weights(ranks: range, m: int, rows: int, rng: torch.Generator) -> Tensor:
    """f32[m, rows]: weights of the measured gradients in the mean over `ranks`; ranks from m on are drawn at random."""
    drawn = ranks.stop - max(ranks.start, m)
    noise = torch.randn(m, rows, generator=rng) * math.sqrt(drawn / (m - 1))
    weights = noise - noise.mean(0) + drawn / m
    weights[ranks.start : m] += 1.0
    return weights / len(ranks)
