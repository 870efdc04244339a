"""The common half of MiCRO and ExDyna: n parts of the vector that rotate over the workers, and one threshold for all.

A worker sends the values of this step's part that reach the threshold. Afterwards all workers know the total count k',
so all correct the threshold alike, without a message. The constants are those of the authors' code:

    k' / k           next threshold
    ----------------------------------------------------------------------------------
    above 1.1        1.005 times this one
    above 1          1.00125 times; the code's test here is `> 0`, so that its next line is never reached (`official`)
    above 0.909      0.9987 times
    else             0.995 times

Half a percent a step doubles a threshold in 139 steps, and the first threshold may be wrong by any factor, all the more
because error feedback lets the residual grow for about 1 / density steps. Hence `start`:

    "sample"   the k-th largest magnitude of the parts about to be searched, from a sample; sampled again after every
               step in which k' was off by more than a factor of 1.25. Independent of the gradient's scale.
    "formula"  1 / (2 sqrt(k)), the authors' code: fits gradients of norm about 1; used once, never again.
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
from gradwire.exchange.disjoint import gather_found, room
from gradwire.exchange.protocol import State, replicated
from gradwire.layout import Turn
from gradwire.vector import Sent, Sparse

Span: TypeAlias = tuple[int, int]
Start: TypeAlias = Literal["sample", "formula"]

SAMPLE = 256
"""Values of a sample that shall reach the threshold, if k is as large: their number is accurate within 8 %."""

FAR = 1.25
"""Factor by which k' may be off before the threshold is sampled again."""


@dataclass(frozen=True)
class Control:
    """The rule of the threshold. Refuses invalid values (ValueError)."""

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
        """int(density * d), but at least one per worker: that many are always sent."""
        return max(1, min(d, n), int(self.density * d))

    def following(self, threshold: float, ratio: float) -> float:
        """The next threshold after one with k' / k = ratio; 0 if it is to be sampled."""
        if self.start == "sample" and not 1 / FAR <= ratio <= FAR:
            return 0.0
        return threshold * factor(ratio, self.official)


def factor(ratio: float, official: bool) -> float:
    """The factor by which a threshold changes after k' / k = ratio (MiCRO, arXiv:2310.00967, and its authors' code)."""
    if ratio > 1.1:
        return 1.005
    if ratio > 0.909:
        return 1.00125 if official or ratio > 1 else 0.9987
    return 0.995


def rank_of(turn: Turn, who: str) -> int:
    """The worker's rank. Refuses a batched turn (ValueError)."""
    if isinstance(turn.rank, slice):
        raise ValueError(f"{who}'s part of the vector depends on the rank: it runs in lockstep, not batched")
    return turn.rank


async def search(
    control: Control, x: Tensor, spans: Sequence[Span], state: State, rank: int, step: int
) -> tuple[Sent, list[int]]:
    """Average f32|f64[d] at the indices whose values reach the threshold, and correct the threshold.

    At step t rank r searches part (t + r) % n. `state["threshold"]` f[1] is replicated, 0 if there is none yet, and
    changed in place. Returns what is sent, and the count k_p of each part.
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
    gathered = await gather_found(selected, sizes, rank, room(sizes, [k / n] * n))

    found = [gathered[(p - step) % n] + start for p, (start, _) in enumerate(spans)]
    counts = [len(indices) for indices in found]
    known.fill_(min(control.following(threshold, sum(counts) / k), torch.finfo(known.dtype).max))
    indices = torch.cat(found)
    values = x[indices]
    total = await AllReduce(values)
    return Sent(own=Sparse(indices, values, d), mean=Sparse(indices, total.div_(n), d)), counts


def _select(part: Tensor, threshold: float, step: int) -> Tensor:
    """Indices in a part whose values reach the threshold; if there are none, a single one that moves with the steps."""
    if threshold > 0:
        indices = kernels.indices_above(part, threshold)
        if len(indices):
            return indices
    single = [step % len(part)] if len(part) else []
    return torch.tensor(single, dtype=torch.int64, device=part.device)


def sampling(k: int) -> tuple[int, int]:
    """The stride of the sample, and the number of its values that shall reach the threshold: at most 511, or k."""
    stride = max(1, k // SAMPLE) | 1  # odd: not all from one column of a matrix
    return stride, -(-k // stride)


async def _sample(part: Tensor, k: int, step: int) -> float:
    """An estimate of the k-th largest magnitude of all parts, from a sample; 0 if all sampled values are zero.

    Each worker samples every stride-th value and sends the m largest; m values of all samples together shall pass. So
    the m-th largest gathered value is that of all samples, in whichever parts the large values lie. If fewer than m are
    not zero, all of them shall pass. One AllGather of m values.
    """
    stride, m = sampling(k)
    sample = part[step % stride :: stride].abs()
    largest = sample.topk(min(m, len(sample)), sorted=False).values
    wires = await AllGather(torch.nn.functional.pad(largest, (0, m - len(largest))).view(torch.uint8))
    gathered = wires.view(part.dtype).flatten()
    gathered = gathered[gathered > 0]
    return float(gathered.topk(min(m, len(gathered)), sorted=False).values.amin()) if len(gathered) else 0.0
