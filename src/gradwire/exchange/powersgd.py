"""PowerSGD: a low-rank approximation of each matrix, by one step of power iteration; vectors are sent in full.

Vogels, Karimireddy and Jaggi 2019, arXiv:1905.13727. With M_i worker i's matrix [m, c] and Q [c, r] known to all:
    P = orthonormal basis of the sum of M_i Q,    Q_i = M_i^T P,    own_i = P Q_i^T,    mean = P (average of Q_i)^T.
own_i = P P^T M_i is a projection of M_i: it never expands, and it is linear in M_i, so the average of the own_i is
`mean`. The average of the Q_i is the Q of the next step (warm start): if the matrices stay the same, the mean converges
to the best rank-r approximation of their average.

A tensor of two axes or more is a matrix [shape[0], the rest] if r (m + c) < m c, so that bytes are saved. A step takes
two AllReduces for any number of tensors: first all P and the tensors that are no matrices, then all Q.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from gradwire.ask import AllReduce
from gradwire.checks import check_whole
from gradwire.exchange.protocol import State, tensor
from gradwire.layout import Layout, Turn
from gradwire.registry import part
from gradwire.vector import Dense, Sent, widen


@part("powersgd", "exchange", example="ef(powersgd(rank=2))")
@dataclass(frozen=True)
class PowerSGD:
    """Send a rank-`rank` approximation of each matrix. Biased: use it inside ef(...), as its authors do."""

    rank: int = 1

    def __post_init__(self) -> None:
        check_whole("rank", self.rank)

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        """Make q, zeros [d] for no directions yet; it is the same on all workers, so `batch_shape` does not matter.

        A matrix's Q [c, r] lies at the start of its tensor's span of q, so that a checkpoint can split q by parameter.
        """
        return {"q": torch.zeros(layout.d, dtype=dtype, device=device)}

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Use two AllReduces: f[all m r, and the tensors that are no matrices], then f[all c r].

        Every worker orthonormalises the summed P itself, so results may differ in rounding between kinds of processors.
        """
        x, q, axes = widen(x), tensor(state, "q"), x.ndim - 1
        matrices, rest = self._plan(turn.layout)
        rng = turn.rng(shared=True, device=x.device)
        sketches = [matrix.of(x) @ _directions(matrix.q(q), rng) for matrix in matrices]
        sums = await _sum([*sketches, *(x[..., span] for span in rest)], axes)
        bases = [_orthonormal(p) for p in sums[: len(matrices)]]
        factors = [matrix.of(x).mT @ p for matrix, p in zip(matrices, bases, strict=True)]
        averages = [total.div_(turn.size) for total in await _sum(factors, axes)]

        own, mean = x.clone(), x.new_empty(x.shape[-1])
        for span, total in zip(rest, sums[len(matrices) :], strict=True):
            mean[span] = total.div_(turn.size)
        for matrix, p, factor, average in zip(matrices, bases, factors, averages, strict=True):
            matrix.of(own).copy_(p @ factor.mT)
            matrix.of(mean).copy_(p @ average.mT)
            matrix.q(q).copy_(average)
        return Sent(own=Dense(own), mean=Dense(mean))

    def omega(self, d: int) -> float | None:
        """Return 0 if d is too small for a matrix, else None: m c > r (m + c) >= 2 r sqrt(m c) implies m c > 4 r^2."""
        return 0.0 if d <= 4 * self.rank**2 else None

    def delta(self, d: int) -> float | None:
        """Return 1 if d is too small for a matrix, else 0: a projection never expands, but may miss everything."""
        return 1.0 if d <= 4 * self.rank**2 else 0.0

    def _plan(self, layout: Layout) -> tuple[list[_Matrix], list[slice]]:
        """Divide a layout into the matrices to compress and the spans of all other tensors."""
        matrices: list[_Matrix] = []
        rest: list[slice] = []
        start = 0
        for shape, size in zip(layout.shapes, layout.sizes, strict=True):
            m, c = (shape[0], size // shape[0]) if len(shape) > 1 and size else (1, size)
            if self.rank * (m + c) < size:
                matrices.append(_Matrix(start, m, c, self.rank))
            else:
                rest.append(slice(start, start + size))
            start += size
        return matrices, rest


class _Matrix(NamedTuple):
    """A tensor [m, c] of a layout that begins at `start`, and the rank r of its approximation."""

    start: int
    m: int
    c: int
    r: int

    def of(self, flat: Tensor) -> Tensor:
        """f[..., d] -> its view f[..., m, c]."""
        return flat[..., self.start : self.start + self.m * self.c].view(*flat.shape[:-1], self.m, self.c)

    def q(self, flat: Tensor) -> Tensor:
        """f[d] of a state -> its view f[c, r]; it fits because r < m for matrices that are compressed."""
        return flat[self.start : self.start + self.c * self.r].view(self.c, self.r)


def _directions(q: Tensor, rng: torch.Generator) -> Tensor:
    """Scale the columns of f[c, r] to a largest magnitude of 1, and replace columns of (nearly) zeros by random ones.

    A column is zero before the first step, and after a step in which P missed the whole matrix. Without new random
    numbers it would stay zero.
    """
    size = q.abs().amax(0)
    fresh = torch.randn(q.shape, generator=rng, dtype=q.dtype, device=q.device)
    return torch.where(size > torch.finfo(q.dtype).tiny, q / size, fresh)


def _orthonormal(p: Tensor) -> Tensor:
    """f[m, r] -> f[m, r] with orthonormal columns, of which the first j span p's first j; any basis if p is zero."""
    return cast(Tensor, torch.linalg.qr(p).Q)


async def _sum(parts: Sequence[Tensor], axes: int) -> list[Tensor]:
    """Sum tensors of any shapes, after `axes` leading axes of workers, by one AllReduce; none if there is no tensor."""
    if not parts:
        return []
    total = await AllReduce(torch.cat([part.flatten(axes) for part in parts], -1))
    shapes = [part.shape[axes:] for part in parts]
    pieces: Sequence[Tensor] = torch.split(total, [shape.numel() for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
