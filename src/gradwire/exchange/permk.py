"""Perm-K: a random partition of the coordinates over the workers; each worker sends its own part.

With own_i = n x_i on part i and 0 elsewhere (Szlendak, Tyurin and Richtárik 2021, arXiv:2110.03300), a single worker's
operator is Rand-K with K = d / n, unbiased with omega = n - 1. The errors of similar vectors cancel:
    E |mean - average of x_i|^2 = average of |x_i|^2 - |average of x_i|^2,
the paper's AB-inequality with A = B = 1. The right side is 0 if all x_i are equal.

The paper requires that n divides d, or d divides n. Here d is padded to n K slots, K = ceil(d / n), and every worker
gets K of them at random. It gets each coordinate with probability 1 / n, and the above holds for every d.
Wire: | K x float32 |, the values of x_i at the worker's slots, 0 for padding. The partition is a function of the step's
key (kernels/permutation.py), so no index is sent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.ask import AllGather
from gradwire.checks import check_whole
from gradwire.compress.protocol import from_omega
from gradwire.exchange.protocol import State, stateless
from gradwire.kernels.permutation import permutation
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Dense, Sent, Sparse, widen
from gradwire.wire import values as formats


@part("permk", "exchange", example="diana(permk(workers=4))")
@dataclass(frozen=True)
class PermK:
    """Gather a random d / n of the coordinates from each worker. `workers` is n, on which the constants depend."""

    workers: int

    def __post_init__(self) -> None:
        check_whole("workers", self.workers)

    init = stateless

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Use one AllGather of u8[4 ceil(d / n)] (ValueError: the number of workers is not `workers`)."""
        self.check_workers(turn.size)
        d, x = x.shape[-1], widen(x)
        slots = self._slots(d, torch.tensor(turn.key(shared=True), device=x.device))
        # Padding slots add 0 to the last coordinate.
        padding, indices = slots >= d, slots.clamp(max=d - 1)
        sent = x.gather(-1, indices[turn.rank]).masked_fill_(padding[turn.rank], 0.0)
        wires = await AllGather(formats.encode(sent, "float32"))
        received = formats.decode(wires, "float32", slots.shape[-1]).to(x.dtype)
        mean = Sparse(indices.flatten(), received.flatten(), d).dense()
        return Sent(own=Sparse(indices[turn.rank], received[turn.rank] * self.workers, d), mean=Dense(mean))

    def check_workers(self, size: int) -> None:
        """Raise ValueError unless the number of workers is `workers`."""
        if size != self.workers:
            raise ValueError(f"{self} divides the coordinates among {self.workers} workers, and this run has {size}")

    def omega(self, d: int) -> float | None:
        """Return n - 1: a single worker's operator is Rand-K with K = d / n."""
        return self.workers - 1.0

    def delta(self, d: int) -> float | None:
        """Return 1 for one worker, which sends everything, else None."""
        return from_omega(self.workers - 1.0)

    def _slots(self, d: int, key: Tensor) -> Tensor:
        """Return int64[n, K]: a random partition of the n K slots; those from d on are padding."""
        k = -(-d // self.workers)
        return permutation(key, self.workers * k).view(self.workers, k)
