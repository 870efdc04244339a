"""SIDCo: a threshold from a fitted law instead of a search (Abdelmoniem et al. 2021, arXiv:2101.10761).

If magnitudes are exponentially distributed, a share r of them exceeds their mean times ln(1 / r). What exceeds a level
is, above it, exponential again, so the fit is repeated on the peaks over the threshold, a stage each:
    level_m = level_{m-1} + (mean of magnitudes from level_{m-1} on - level_{m-1}) ln(1 / r_m),    level_0 = 0.
Passes over memory, no sort: O(d) for all stages together, since the first of several keeps a share r_1 = 1/4.

The number of stages is a fact that all workers know: it begins at 1, and a step whose average count, over the workers,
is not within 20 % of k asks for one more, up to `stages`. Ours, not the paper's: r_m for m > 1 shares what is still to
be dropped evenly among the stages left, by the count that has really passed, so that one stage's error is the next
one's task; their number never falls; and no level is higher than the largest magnitude, so that equal magnitudes are
sent, all of them, where the exponential law would send none for ever.

Every worker's own selection is gathered as `HardThreshold` sends it (compress/threshold.py), and is its own part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gradwire.checks import check_whole
from gradwire.compress.protocol import check_density, kept
from gradwire.compress.threshold import HardThreshold
from gradwire.exchange.gathered import Gathered
from gradwire.exchange.protocol import State, replicated
from gradwire.layout import Layout, Turn
from gradwire.registry import part
from gradwire.vector import Sent, Sparse, widen

FIRST = 0.25
"""The share that the first of several stages aims at."""

BAND = 0.2
"""How far the average count may be from k, as a share of k, before another stage is asked for."""

TINY = torch.finfo(torch.float32).tiny
"""The lowest level: what is smaller, zero above all, is not sent."""


@part("sidco", "exchange", example="ef(sidco(density=0.01))")
@dataclass(frozen=True)
class SIDCo:
    """Send what exceeds an exponential law's threshold, about density * d values, fitted in at most so many stages."""

    density: float
    stages: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", check_density(self.density))
        check_whole("stages", self.stages)

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        """The number of stages, a fact [1], 1 before the first step."""
        return {"stages": torch.ones(1, dtype=dtype, device=device)}

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Two Gathers: lengths, then messages as long as the longest. Changes the number of stages in place."""
        if isinstance(turn.rank, slice):
            raise ValueError("sidco's threshold is each worker's own: it runs in lockstep, not batched")
        d, stages = len(x), replicated(state, "stages", (1,))
        k, used = kept(self.density, d), max(1, round(min(stages.item(), self.stages)))
        level = threshold(widen(x).abs(), k, used)
        sent = await Gathered(HardThreshold(max(level, TINY)))(x, {}, turn)
        count = int(cast(Sparse, sent.mean).values.count_nonzero()) / turn.size
        # Where nobody has sent anything there was nothing to fit.
        if count > 0 and abs(count - k) > BAND * k:
            stages.fill_(min(used + 1, self.stages))
        return sent

    def omega(self, d: int) -> float | None:
        """None: biased."""
        return None

    def delta(self, d: int) -> float | None:
        """0: a projection, never expansive; but nobody promises that it selects k."""
        return 0.0


def threshold(size: Tensor, k: int, stages: int) -> float:
    """The level that about k of the magnitudes f[d] reach, 0 for no or only zero magnitudes; some reach it always."""
    level, peaks = 0.0, size
    for stage in range(stages if size.numel() else 0):
        if stage > 0:
            peaks = peaks[peaks >= level]
        left = min(1.0, k / len(peaks))
        share = FIRST if stage == 0 < stages - 1 and left < FIRST else left ** (1 / (stages - stage))
        excess = peaks.mean(dtype=torch.float64).item() - level
        level = min(level - excess * math.log(share), peaks.max().item())
    return level
