"""What MiCRO and ExDyna share: n parts of the vector that rotate over the workers, and one threshold for all of them.

A worker sends what reaches the threshold in its part of this step. How many all did, k', everybody knows afterwards: so
all correct the threshold alike and say nothing of it. The constants are those of the authors' code:

    k' / k           next threshold
    ----------------------------------------------------------------------------------
    above 1.1        1.005 times this one
    above 1          1.00125 times; the code's test here is `> 0`, so that its next line is never reached (`official`)
    above 0.909      0.9987 times
    else             0.995 times

Half a percent a step doubles a threshold in 139 steps, and the first one may be wrong by any factor, the more so as
error feedback lets what is searched grow for about 1 / density steps. Hence `start`:

    "sample"   the k-th largest magnitude of what the workers are about to search, from a sample; taken again after
               every step in which k' was off by more than a factor of 1.25. It does not depend on the gradient's scale.
    "formula"  1 / (2 sqrt(k)), the authors' code: fits gradients of norm 1 or so; once, whatever comes of it.
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
from gradwire.exchange.disjoint import gather, hear_counts
from gradwire.exchange.protocol import State, replicated
from gradwire.layout import Turn
from gradwire.vector import Sent, Sparse

Span: TypeAlias = tuple[int, int]
Start: TypeAlias = Literal["sample", "formula"]

SAMPLE = 256
"""Values of a sample that are to reach the threshold, where k is as large: their number is certain within 8 %."""

FAR = 1.25
"""Factor by which k' may be off before the threshold is sampled anew."""


@dataclass(frozen=True)
class Control:
    """The rule of the threshold. Refuses, naming it, a value that is none (ValueError)."""

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
        """int(density * d), but one a worker at least: that many are sent in any case."""
        return max(1, min(d, n), int(self.density * d))

    def following(self, threshold: float, exam: float) -> float:
        """The next threshold after one with k' / k = exam; 0 where a sample is to tell it."""
        if self.start == "sample" and not 1 / FAR <= exam <= FAR:
            return 0.0
        return threshold * factor(exam, self.official)


def factor(exam: float, official: bool) -> float:
    """The factor by which a threshold changes after k' / k = exam (MiCRO, arXiv:2310.00967, and its authors' code)."""
    if exam > 1.1:
        return 1.005
    if exam > 0.909:
        return 1.00125 if official or exam > 1 else 0.9987
    return 0.995


def rank_of(turn: Turn, who: str) -> int:
    """The worker whose turn it is; a batch of all is refused (ValueError)."""
    if isinstance(turn.rank, slice):
        raise ValueError(f"{who}'s part of the vector depends on the rank: it runs in lockstep, not batched")
    return turn.rank


async def search(
    control: Control, x: Tensor, spans: Sequence[Span], state: State, rank: int, step: int
) -> tuple[Sent, list[int]]:
    """Average f32|f64[d] where the workers' parts reach the threshold, and correct it: what is sent, and k_p by part.

    At step t rank r searches part (t + r) % n. `state["threshold"]` f[1], 0 where there is none yet, is the same on all
    workers and changed in place.
    """
    d, n = len(x), len(spans)
    known, k = replicated(state, "threshold", (1,)), control.k(d, n)
    places = [spans[(step + other) % n] for other in range(n)]
    part = x[slice(*places[rank])]
    threshold = max(0.0, float(known))
    if threshold == 0:
        threshold = await _sample(part, k, step) if control.start == "sample" else 0.5 * k**-0.5
    found = _reach(part, threshold, step)
    heard = await gather(found, await hear_counts(found), [end - start for start, end in places], rank)

    found = [heard[(p - step) % n] + start for p, (start, _) in enumerate(spans)]
    counts = [len(indices) for indices in found]
    known.fill_(min(control.following(threshold, sum(counts) / k), torch.finfo(known.dtype).max))
    indices = torch.cat(found)
    values = x[indices]
    total = await AllReduce(values)
    return Sent(own=Sparse(indices, values, d), mean=Sparse(indices, total.div_(n), d)), counts


def _reach(part: Tensor, threshold: float, step: int) -> Tensor:
    """Places in a part that reach the threshold, or, where none does, a single one that moves on with the steps."""
    if threshold > 0:
        found = kernels.indices_above(part, threshold)
        if len(found):
            return found
    alone = [step % len(part)] if len(part) else []
    return torch.tensor(alone, dtype=torch.int64, device=part.device)


def sampling(k: int) -> tuple[int, int]:
    """Every how manieth value is looked at, and how many of them are to reach the threshold: at most 511, or k."""
    stride = max(1, k // SAMPLE) | 1  # odd: not all from one column of a matrix
    return stride, -(-k // stride)


async def _sample(part: Tensor, k: int, step: int) -> float:
    """The k-th largest magnitude of all parts, within a sample of them; 0 where they are zero.

    Of every stride-th value each worker tells the largest m, as many as the sample is to contain in all: so the m-th
    largest of what is told is that of the whole sample, wherever the large values lie. One AllGather of m values. Where
    fewer are not zero, all of them are to pass.
    """
    stride, m = sampling(k)
    seen = part[step % stride :: stride].abs()
    largest = seen.topk(min(m, len(seen)), sorted=False).values
    wires = await AllGather(torch.nn.functional.pad(largest, (0, m - len(largest))).view(torch.uint8))
    told = wires.view(part.dtype).flatten()
    told = told[told > 0]
    return float(told.topk(min(m, len(told)), sorted=False).values.amin()) if len(told) else 0.0
