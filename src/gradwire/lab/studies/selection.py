"""The time of DEFT's selection by the number of workers, measured by searching every worker's bin one after the other.

One gradient stands for all workers, so ranks 0 ... n - 1 have the bins of one plan. Top-k of the whole vector by the
same kernel is timed in turn with every n. Seconds are CPU time of the thread, which excludes other processes. The
slowest rank is the one with the largest median, so that a single interruption does not decide.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gradwire import kernels
from gradwire.exchange.deft import Packing, assign_k, pack, partition
from gradwire.exchange.deft.plan import KEPT
from gradwire.layout import Layout


@dataclass(frozen=True)
class Timing:
    """Median and quartiles of repeated measurements, in seconds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Scale:
    """Measurements with n workers; timings in seconds.

    layers: number of layers after partitioning. whole: Top-k of all d elements. slowest: selection on the slowest rank.
    norms: the norms of all layers in a pass of their own. measured: the time that norms add to the pass of error
    feedback, which reads everything anyway. budgets, packing: the other parts of a plan, without communication.
    fullest: elements of the largest bin times n / d; 1 is an even split, which the packing does not aim at.
    richest: the largest budget of a bin times n / k; a kept element costs more than one that is not kept.
    expected: the ratio predicted by the layers' costs n_x + 20 k_x, without a constant cost for each search.
    indivisible: the most expensive layer's part of `expected`, a lower bound for any packing.
    even: n times the ranks' average time divided by `whole`: the ratio if all bins took equally long.
    read: n times the time of a plain sum of the largest searched layer, divided by `whole`: a lower bound.
    """

    n: int
    layers: int
    whole: Timing
    slowest: Timing
    norms: Timing
    measured: Timing
    budgets: Timing
    packing: Timing
    fullest: float
    richest: float
    expected: float
    indivisible: float
    even: float
    read: float

    @property
    def ratio(self) -> float:
        """n times the slowest rank's seconds, divided by Top-k's: 1 is a linear speed-up, less is better."""
        return self.n * self.slowest.median / self.whole.median

    @property
    def plan(self) -> float:
        """Seconds of a plan under error feedback: norms, budgets and packing."""
        return max(0.0, self.measured.median) + self.budgets.median + self.packing.median


@dataclass(frozen=True)
class SelectionTimes:
    """The measurements of one model with one packing and cut, and torch.topk's time to select k of d elements."""

    d: int
    k: int
    pack_by: str
    cut: int
    torch_topk: Timing
    scales: tuple[Scale, ...]


@dataclass(frozen=True)
class Prepared:
    """Computed before timing: the layers for n workers, norms, budgets, the plan, and the largest searched layer."""

    layers: list[tuple[int, int]]
    sizes: list[int]
    norms: list[float]
    ks: list[int]
    plan: Packing
    largest: Tensor


def measure(
    layout: Layout, density: float, ns: Sequence[int], repeats: int, seed: int = 0, pack_by: str = "cost", cut: int = 0
) -> SelectionTimes:
    """Time all numbers of workers in turn, `repeats` times, after one warm-up round.

    Args:
        layout: the model's tensors.
        density: k / d.
        ns: numbers of workers.
        repeats: number of timed rounds.
        seed: seeds the gradient.
        pack_by, cut: DEFT's parameters: the cost by which bins are balanced, and how finely layers are split.

    Raises:
        ValueError: ns is empty, or repeats is less than 1.
    """
    if not ns or repeats < 1:
        raise ValueError(f"a measurement needs workers and repeats, got n = {list(ns)} and {repeats} repeats")
    x, k = gradient(layout, seed), int(density * layout.d)
    prepared = {n: _prepare(layout, x, k, n, pack_by, cut) for n in ns}
    rounds = [{n: _round(x, k, n, prepared[n], pack_by) for n in ns} for _ in range(repeats + 1)]
    residual, before = (kernels.zeros((layout.d,), torch.float32, "cpu") for _ in range(2))
    buffers = residual, before, list(layout.cut(x.clone()).values())
    for once in rounds:  # in a loop of its own, because these buffers would evict x from the caches
        for n in ns:
            plain, measured = (
                _clock(lambda layers=layers: kernels.accumulate(*buffers, layers=layers))
                for layers in ((), prepared[n].layers)
            )
            once[n]["measured"] = measured - plain
    seconds = {n: [once[n] for once in rounds[1:]] for n in ns}
    torch_topk = [_clock(lambda: x.abs().topk(k, sorted=False)) for _ in range(min(repeats, 3))]
    scales = tuple(_scale(n, prepared[n], seconds[n], layout.d, k) for n in ns)
    return SelectionTimes(layout.d, k, pack_by, cut, _timing(torch_topk), scales)


def gradient(layout: Layout, seed: int = 0) -> Tensor:
    """A normal vector f32[d] whose tensors have lognormal scales (sigma = 1), in memory allocated like a residual."""
    rng = torch.Generator().manual_seed(seed)
    x = kernels.zeros((layout.d,), torch.float32, "cpu").normal_(generator=rng)
    for part in layout.cut(x).values():
        part.mul_(float(torch.randn((), generator=rng).exp()))
    return x


def _prepare(layout: Layout, x: Tensor, k: int, n: int, pack_by: str, cut: int) -> Prepared:
    layers = partition(layout.sizes, n, 0, cut)
    sizes = [end - start for start, end in layers]
    norms = kernels.norms(x, layers)
    ks = assign_k(sizes, norms, k)
    plan = pack(sizes, ks, n, pack_by)
    searched = [layers[i] for bin in plan.bins for i in bin]
    start, end = max(searched, key=lambda layer: layer[1] - layer[0], default=(0, 0))
    return Prepared(layers, sizes, norms, ks, plan, x[start:end])


def _round(x: Tensor, k: int, n: int, prepared: Prepared, pack_by: str) -> dict[str, float]:
    """Time every part once; return seconds by name, with each rank's selection under its number."""
    sizes, ks = prepared.sizes, prepared.ks
    once = {
        "whole": _clock(lambda: kernels.topk(x, k)),
        "norms": _clock(lambda: kernels.norms(x, prepared.layers)),
        "read": _clock(prepared.largest.sum),
        "budgets": _clock(lambda: assign_k(sizes, prepared.norms, k)),
        "packing": _clock(lambda: pack(sizes, ks, n, pack_by)),
    }
    for rank, bin in enumerate(map(sorted, prepared.plan.bins)):
        spans, wanted = [prepared.layers[i] for i in bin], [ks[i] for i in bin]
        once[str(rank)] = _clock(lambda spans=spans, wanted=wanted: kernels.segmented_topk(x, spans, wanted))
    return once


def _clock(work: Callable[[], object]) -> float:
    started = time.thread_time()
    work()
    return time.thread_time() - started


def _scale(n: int, prepared: Prepared, rounds: Sequence[dict[str, float]], d: int, k: int) -> Scale:
    parts = {part: _timing([once[part] for once in rounds]) for part in rounds[0]}
    costs = [size + KEPT * k for size, k in zip(prepared.sizes, prepared.ks, strict=True)]
    searched = [costs[i] for bin in prepared.plan.bins for i in bin]
    return Scale(
        n=n,
        layers=len(prepared.layers),
        slowest=max((parts[str(rank)] for rank in range(n)), key=lambda timing: timing.median),
        fullest=max(sum(prepared.sizes[i] for i in bin) for bin in prepared.plan.bins) * n / d,
        richest=max(sum(prepared.ks[i] for i in bin) for bin in prepared.plan.bins) * n / k,
        expected=max(sum(costs[i] for i in bin) for bin in prepared.plan.bins) * n / (d + KEPT * k),
        indivisible=max(searched, default=0) * n / (d + KEPT * k),
        even=sum(parts[str(rank)].median for rank in range(n)) / parts["whole"].median,
        read=n * parts["read"].median / parts["whole"].median,
        **{part: parts[part] for part in ("whole", "norms", "measured", "budgets", "packing")},
    )


def _timing(seconds: Sequence[float]) -> Timing:
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
    return Timing(median, low, high)
