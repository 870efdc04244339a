"""SIDCo: a threshold from a fitted distribution instead of a search (Abdelmoniem et al. 2021, arXiv:2101.10761).

If magnitudes are exponentially distributed, a fraction r of them exceeds their mean times ln(1 / r). The excess over a
threshold is exponential again, so the fit is repeated on the values above it, one stage after the other:
    t_m = t_{m-1} + (mean of the magnitudes >= t_{m-1} - t_{m-1}) ln(1 / r_m),    t_0 = 0.
It does not sort: all stages together read O(d) values, since the first of several keeps a fraction r_1 = 1/4.

The number of stages is replicated state. It begins at 1; a step whose average count over the workers is not within 20 %
of k adds one, up to `stages`. This differs from the paper in three points. For m > 1, r_m divides the remaining
reduction evenly among the remaining stages, by the count that really passed, so each stage corrects the one before. The
number of stages never decreases. And no threshold is above the largest magnitude, so equal magnitudes are all sent,
whereas the exponential fit would never send any.

Every worker's selection is gathered as `HardThreshold` sends it (compress/threshold.py), and is its `own`.
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
"""The fraction that the first of several stages keeps."""

BAND = 0.2
"""The largest deviation of the average count from k, as a fraction of k, without adding a stage."""

TINY = torch.finfo(torch.float32).tiny
"""The lowest threshold: smaller values, in particular zeros, are not sent."""


@part("sidco", "exchange", example="ef(sidco(density=0.01))")
@dataclass(frozen=True)
class SIDCo:
    """Send about density * d values: those that reach a threshold, fitted in at most `stages` stages."""

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
        """Make the number of stages [1], replicated, 1 before the first step."""
        return {"stages": torch.ones(1, dtype=dtype, device=device)}

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Use two AllGathers: lengths, then messages padded to the longest. The number of stages changes in place."""
        if isinstance(turn.rank, slice):
            raise ValueError("sidco's threshold is each worker's own: it runs in lockstep, not batched")
        d, stages = len(x), replicated(state, "stages", (1,))
        k, used = kept(self.density, d), max(1, round(min(stages.item(), self.stages)))
        threshold = fit_threshold(widen(x).abs(), k, used)
        sent = await Gathered(HardThreshold(max(threshold, TINY)))(x, {}, turn)
        count = int(cast(Sparse, sent.mean).values.count_nonzero()) / turn.size
        # If no worker sends anything, all magnitudes are below TINY, and more stages would not help.
        if count > 0 and abs(count - k) > BAND * k:
            stages.fill_(min(used + 1, self.stages))
        return sent

    def omega(self, d: int) -> float | None:
        """Return None: it is biased."""
        return None

    def delta(self, d: int) -> float | None:
        """Return 0: a projection, but it may select fewer than k values."""
        return 0.0


def fit_threshold(size: Tensor, k: int, stages: int) -> float:
    """Return a threshold that about k, at least one, of the magnitudes f[d] reach; 0 if d is 0 or all are 0."""
    threshold, peaks = 0.0, size
    for stage in range(stages if size.numel() else 0):
        if stage > 0:
            peaks = peaks[peaks >= threshold]
        left = min(1.0, k / len(peaks))
        fraction = FIRST if stage == 0 < stages - 1 and left < FIRST else left ** (1 / (stages - stage))
        excess = peaks.mean(dtype=torch.float64).item() - threshold
        threshold = min(threshold - excess * math.log(fraction), peaks.max().item())
    return threshold
