"""Int8AllReduce: round to multiples of a step that all workers share, and sum the multiples as one byte each.

With n workers and L = 127 // n, the step is s / L, where s is the largest magnitude of all workers. Each value is
rounded at random to one of the two multiples of the step around it, so the n numbers |q_i| <= L of a coordinate sum to
at most 127. Global-QSGD with the max-norm (Xin, Canini, Richtárik and Horváth 2023, arXiv:2305.18627).

Unbiased. The concatenation of the n vectors is one vector of n d elements under standard dithering with p = inf and L
levels (compress/dithering.py), which bounds the total variance:
    sum_i E |own_i - x_i|^2 <= omega sum_i |x_i|^2,    omega = min{ n d / (4 L^2),  (sqrt(n d) - 1) / (2 L) }.
There is no bound for a single worker: its values may be small where another's are large.

every rank                                                                            per step and worker
-----------------------------------------------------------------------------------------------------------
AllReduce  max: the largest magnitude, float32, rounded up                               4 bytes
AllReduce  sum: q, int8                                                                  d bytes
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.ask import AllReduce
from gradwire.checks import check_whole
from gradwire.compress import norms
from gradwire.compress.dithering import Dithering
from gradwire.exchange.protocol import State, stateless
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Dense, Sent, widen

LARGEST = 127


@part("int8allreduce", "exchange", example="int8allreduce(workers=8)")
@dataclass(frozen=True)
class Int8AllReduce:
    """Sum every value as an int8, for at most `workers` workers; fewer workers make a finer step."""

    workers: int

    def __post_init__(self) -> None:
        check_whole("workers", self.workers)
        if self.workers > LARGEST:
            raise ValueError(f"an int8 holds the sum of at most {LARGEST} workers' numbers, got workers={self.workers}")

    init = stateless

    @property
    def levels(self) -> int:
        """L, the largest integer that a worker sends."""
        return LARGEST // self.workers

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Use two AllReduces (ValueError: there are more workers than `workers`)."""
        if turn.size > self.workers:
            raise ValueError(f"{self} sums the numbers of at most {self.workers} workers, and this run has {turn.size}")
        x, key = widen(x), turn.key(shared=False)
        scale = (await AllReduce(norms.scale(x, "inf"), op="max")).to(x.dtype)
        q = _round(x, scale, self.levels, key)
        total = await AllReduce(q)
        # Divide first: the largest scale times an integer would overflow float32.
        own, mean = q.to(x.dtype).div_(self.levels), total.to(x.dtype).div_(self.levels * turn.size)
        return Sent(own=Dense(own.mul_(scale)), mean=Dense(mean.mul_(scale)))

    def omega(self, d: int) -> float:
        """Return the bound for n = `workers` workers together; it holds for fewer too."""
        return Dithering(self.levels, "inf").omega(self.workers * d)

    def delta(self, d: int) -> None:
        """Return None: one worker's values may be small where another's are large."""


def _round(x: Tensor, scale: Tensor, levels: int, key: int) -> Tensor:
    """Finite f[..., d], f[1] -> int8[..., d]: levels * x / scale, rounded at random; 0 where the scale is 0."""
    # No value exceeds the scale, except float64 values beyond the largest float32, which are clamped.
    scaled = x.div(scale.where(scale > 0, 1.0)).mul_(levels).clamp_(-levels, levels)
    lower = scaled.floor()
    up = kernels.uniforms(key, x.shape, x.dtype, x.device) < scaled.sub_(lower)
    return lower.add_(up).to(torch.int8)
