"""The common part of MiCRO and ExDyna: n parts of the vector that rotate over the workers, and a common threshold.

A worker sends the values of this step's part that reach the threshold. Afterwards all workers know the total count k',
so all correct the threshold alike, without a message. The constants are those of the authors' code:

    k' / k           next threshold
    ----------------------------------------------------------------------------------
    above 1.1        1.005 times this one
    above 1          1.00125 times; the authors' code tests `> 0` here, so it never reaches the next line (`official`)
    above 0.909      0.9987 times
    else             0.995 times

Half a percent per step doubles a threshold in 139 steps, but the first threshold may be wrong by any factor, also
because error feedback lets the residual grow for about 1 / density steps. Hence `start`:

    "sample"   the k-th largest magnitude, estimated from a sample; sampled again after every step in which k' was off
               by more than a factor of 1.25. It does not depend on the gradient's scale.
    "formula"  1 / (2 sqrt(k)), as in the authors' code, used once. It fits gradients of norm about 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.ask import AllGather, AllReduce
from gradwire.compress.protocol import check_density
from gradwire.exchange.disjoint import expected_nbytes, gather_found
from gradwire.exchange.protocol import State, replicated
from gradwire.layout import Turn
from gradwire.vector import Sent, Sparse

Span: TypeAlias = tuple[int, int]
Start: TypeAlias = Literal["sample", "formula"]

SAMPLE = 256
"""Number of sampled values that should reach the threshold, if k is as large: k' is then accurate within 8 %."""

FAR = 1.25
"""If k' is off by more than this factor, the threshold is sampled again."""


@dataclass(frozen=True)
class Control:
    """The rule by which the threshold changes (ValueError: an invalid value)."""

    density: float
    start: Start
    official: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", check_density(self.density))
        if self.start not in ("sample", "formula"):
            raise ValueError(f"start must be 'sample' or 'formula', got {self.start!r}")
        if not isinstance(self.official, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"official must be true or false, got {self.official!r}")

    def k(self, d: int, n: int) -> int:
        """Return int(density * d), but at least one per worker, because every worker sends at least one value."""
        return max(1, min(d, n), int(self.density * d))

    def following(self, threshold: float, ratio: float) -> float:
        """Return the threshold after one with k' / k = ratio; 0 if it is to be sampled."""
        if self.start == "sample" and not 1 / FAR <= ratio <= FAR:
            return 0.0
        return threshold * factor(ratio, self.official)


def factor(ratio: float, official: bool) -> float:
    """Return the factor of the threshold after k' / k = ratio (MiCRO, arXiv:2310.00967, and its authors' code)."""
    if ratio > 1.1:
        return 1.005
    if ratio > 0.909:
        return 1.00125 if official or ratio > 1 else 0.9987
    return 0.995


def rank_of(turn: Turn, who: str) -> int:
    """Return the worker's rank (ValueError: the turn is batched)."""
    if isinstance(turn.rank, slice):
        raise ValueError(f"{who}'s part of the vector depends on the rank: it runs in lockstep, not batched")
    return turn.rank


async def search(
    control: Control, x: Tensor, spans: Sequence[Span], state: State, rank: int, step: int
) -> tuple[Sent, list[int]]:
    """Average f32|f64[d] at the indices whose values reach the threshold, and correct the threshold.

    At step t rank r searches part (t + r) % n. `state["threshold"]` f[1] is replicated, 0 for none yet, and changes in
    place. Returns the result, and the count k_p of each part.
    """
    d, n = len(x), len(spans)
    known, k = replicated(state, "threshold", (1,)), control.k(d, n)
    by_rank = [spans[(step + other) % n] for other in range(n)]
    part = x[slice(*by_rank[rank])]
    threshold = max(0.0, float(known))
    if threshold == 0:
        threshold = await _sample(part, k, step) if control.start == "sample" else 0.5 * k**-0.5
    selected = _select(part, threshold, step)
    sizes = [end - start for start, end in by_rank]
    gathered = await gather_found(selected, sizes, rank, expected_nbytes(sizes, [k / n] * n))

    found = [gathered[(p - step) % n] + start for p, (start, _) in enumerate(spans)]
    counts = [len(indices) for indices in found]
    known.fill_(min(control.following(threshold, sum(counts) / k), torch.finfo(known.dtype).max))
    indices = torch.cat(found)
    values = x[indices]
    total = await AllReduce(values)
    return Sent(own=Sparse(indices, values, d), mean=Sparse(indices, total.div_(n), d)), counts


def _select(part: Tensor, threshold: float, step: int) -> Tensor:
    """Return the indices in a part whose values reach the threshold; if there are none, index step mod its size."""
    if threshold > 0:
        indices = kernels.indices_above(part, threshold)
        if len(indices):
            return indices
    single = [step % len(part)] if len(part) else []
    return torch.tensor(single, dtype=torch.int64, device=part.device)


def sampling(k: int) -> tuple[int, int]:
    """Return the sample's stride, and the number of its values that should reach the threshold: at most 511 and k."""
    stride = max(1, k // SAMPLE) | 1  # odd, so that not all values are from one column of a matrix
    return stride, -(-k // stride)


async def _sample(part: Tensor, k: int, step: int) -> float:
    """Estimate the k-th largest magnitude of all parts from a sample; 0 if all sampled values are zero.

    Each worker samples every stride-th value and sends the m largest, by one AllGather of m values. The threshold is
    the m-th largest of all samples, which is the m-th largest gathered value, in whichever parts the large values are.
    If fewer than m are nonzero, it is the smallest of them.
    """
    stride, m = sampling(k)
    sample = part[step % stride :: stride].abs()
    largest = sample.topk(min(m, len(sample)), sorted=False).values
    wires = await AllGather(torch.nn.functional.pad(largest, (0, m - len(largest))).view(torch.uint8))
    gathered = wires.view(part.dtype).flatten()
    gathered = gathered[gathered > 0]
    return float(gathered.topk(min(m, len(gathered)), sorted=False).values.amin()) if len(gathered) else 0.0
