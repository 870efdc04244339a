"""DEFT's plan: layers, their budgets, their bins. Plain Python over layers, never over elements.

Symbols as in the paper: n workers, n_g elements in all, k = int(density * n_g), a layer is a piece of the flat vector
after partitioning, n_{g,x} its size and k_x its budget. Algorithms 2 to 4 of the paper, as its authors' code has them.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

KEPT = 20
"""Elements that kernels.segmented_topk skips in the time it takes to keep one more: 15 of many, 45 of few."""


@dataclass(frozen=True)
class Plan:
    """Which bin searches which layers.

    bins: n lists of layer numbers. common: layers that are sent whole, known to all and searched by nobody.
    loads: the estimated cost of each bin, by default the sum of n_{g,x} * log2(k_x).
    """

    bins: list[list[int]]
    common: list[int]
    loads: list[float]

    def message(self) -> list[int]:
        """The plan as n + L numbers: the lengths of the bins, then their layers, then the common ones."""
        return [len(bin) for bin in self.bins] + [x for bin in self.bins for x in bin] + self.common

    @staticmethod
    def read(message: Sequence[int], n: int) -> Plan:
        """Rebuild a plan from its message; loads are not sent and stay empty."""
        bins: list[list[int]] = []
        at = n
        for length in message[:n]:
            bins.append(list(message[at : at + length]))
            at += length
        return Plan(bins, list(message[at:]), [])

    @staticmethod
    def fits(message: Sequence[int], n: int, sizes: Sequence[int]) -> bool:
        """Tell whether a message holds every layer once, and, where budgets follow, budgets that layers can have."""
        lengths, layers, ks = message[:n], message[n : n + len(sizes)], message[n + len(sizes) :]
        return (
            min(lengths) >= 0
            and sum(lengths) <= len(sizes)
            and sorted(layers) == list(range(len(sizes)))
            and all(0 <= k <= size for k, size in zip(ks, sizes, strict=False))
            and all(ks[x] == sizes[x] for x in layers[sum(lengths) :] if ks)
        )


def partition(sizes: Sequence[int], n: int, merge: int = 0) -> list[tuple[int, int]]:
    """Cut the flat vector into layers (start, end): one per tensor, n pieces of a tensor larger than n_g / n (Alg. 2).

    Pieces differ by at most one element, the longer ones first. Empty tensors make no layer. From the first tensor to
    the last, whole neighbours become one layer while together they have at most `merge` elements, and n_g / n: the
    paper's bound on the largest layer holds for every `merge`.
    """
    if n < 1:
        raise ValueError(f"a partition needs at least one worker, got {n}")
    total, start, layers, room = sum(sizes), 0, list[tuple[int, int]](), 0
    for size in sizes:
        pieces = n if size > total / n else 1
        least, longer = divmod(size, pieces)
        for piece in range(pieces):
            end = start + least + (piece < longer)
            if start < end <= room:
                layers[-1] = (layers[-1][0], end)
            elif end > start:
                layers.append((start, end))
                room = start + min(merge, total // n) if pieces == 1 else 0
            start = end
    return layers


def assign_k(sizes: Sequence[int], norms: Sequence[float], k: int) -> list[int]:
    """Share k among the layers in proportion to their norms, the largest norm first (Alg. 3).

    Every layer gets at least 1 and at most its size; what a layer cannot take goes to the ones after it. Hence the sum
    may exceed k by up to the number of layers, or fall short of it when the last layers are small. Of equal norms the
    first layer comes first. A budget for all elements is everything, whatever the norms: at density 1 nothing is lost.
    """
    if k >= sum(sizes):
        return list(sizes)
    budget, left_k, left_norm = [0] * len(sizes), k, math.fsum(norms)
    for x in sorted(range(len(sizes)), key=norms.__getitem__, reverse=True):
        # Never more than is left: what remains of the norms after many subtractions may be too small by rounding.
        share = min(left_k, int(left_k * norms[x] / left_norm)) if left_norm > 0 else 0
        budget[x] = sizes[x] if sizes[x] < share else max(1, share)
        left_k -= budget[x]
        left_norm -= norms[x]
    return budget


def apportion_k(sizes: Sequence[int], norms: Sequence[float], k: int) -> list[int]:
    """Share min(k, n_g) exactly among the layers in proportion to their norms, none above its size: largest remainders.

    A layer whose share reaches its size is sent whole, and what it cannot take goes to the others in proportion. Of
    the others each gets its share rounded down, and those with the largest remainders one more; of equal remainders
    the first layer. A layer may get nothing. What is left where all layers with a norm are whole goes to those of norm
    zero in proportion to their sizes. Hamilton's method with caps; not in the paper.
    """
    top = max(norms, default=0.0)
    # Whole numbers, so that no sum is rounded: a layer below 2^-64 of the largest norm counts as one of norm zero.
    weights = [int(math.ldexp(norm / top, 64)) if top > 0 else 0 for norm in norms]
    first = _apportion(sizes, weights, k)
    zeros = [0 if weight else size for size, weight in zip(sizes, weights, strict=True)]
    return [a + b for a, b in zip(first, _apportion(sizes, zeros, k - sum(first)), strict=True)]


def _apportion(sizes: Sequence[int], weights: Sequence[int], k: int) -> list[int]:
    """Share k, or all there is, among the layers with a positive weight.

    Whole layers never take more than k: each takes at most its share. Of the rest a share lies below the size, so that
    one more fits, and fewer remainders are called upon than are positive, because each is less than one.
    """
    budget, rest = [0] * len(sizes), [x for x in range(len(sizes)) if sizes[x] and weights[x]]
    total = sum(weights[x] for x in rest)
    while whole := [x for x in rest if k * weights[x] >= sizes[x] * total]:
        for x in whole:
            budget[x] = sizes[x]
            k, total = k - sizes[x], total - weights[x]
        rest = [x for x in rest if not budget[x]]
    shares = {x: divmod(k * weights[x], total) for x in rest}
    more = k - sum(share for share, _ in shares.values()) if rest else 0
    winners = set(sorted(rest, key=lambda x: -shares[x][1])[:more])
    for x, (share, _) in shares.items():
        budget[x] = share + (x in winners)
    return budget


def pack(sizes: Sequence[int], ks: Sequence[int], n: int, by: str = "cost") -> Plan:
    """Pack the layers into n bins, longest processing time first, by cost n_{g,x} * log2(k_x) (Alg. 4).

    With by="elements" the cost is n_{g,x} + 20 * k_x: what a selection in linear time takes.

    A layer that is sent whole (k_x = n_{g,x}) needs no search: it is common. One without a budget costs nothing here
    but may have one elsewhere: these go round the bins. Equal costs go by the lowest layer, equal loads by the lowest
    bin.
    """
    costs = _costs(sizes, ks, by)
    bins: list[list[int]] = [[] for _ in range(n)]
    common: list[int] = []
    heap = [(0.0, bin) for bin in range(n)]
    for x in sorted(range(len(sizes)), key=costs.__getitem__, reverse=True):
        if ks[x] == sizes[x]:
            common.append(x)
        elif ks[x] == 0:
            bins[x % n].append(x)
        else:
            load, bin = heap[0]
            heapq.heapreplace(heap, (load + costs[x], bin))
            bins[bin].append(x)
    return Plan(bins, common, [load for load, _ in sorted(heap, key=lambda entry: entry[1])])


def _costs(sizes: Sequence[int], ks: Sequence[int], by: str) -> list[float]:
    if by == "elements":
        return [float(size + KEPT * k) for size, k in zip(sizes, ks, strict=True)]
    return [size * math.log2(k) if k > 1 else float(size) for size, k in zip(sizes, ks, strict=True)]
