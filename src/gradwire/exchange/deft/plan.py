"""DEFT's plan: layers, their budgets and their bins. Plain Python loops over layers, never over elements.

Symbols as in the paper: n workers, n_g elements in all, k = int(density * n_g), a layer is a piece of the flat vector
after partitioning, n_{g,x} its size and k_x its budget. These are Algorithms 2 to 4 of the paper, as in its authors'
code.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

KEPT = 20
"""Cost of keeping one more element in kernels.segmented_topk, in skipped elements: 15 if many are kept, 45 if few."""

FEW, MANY = 17, 9
"""The same cost by later measurements: if few elements of a layer are kept, and if all are."""

SAMPLED = 120
"""Cost per (n_x k_x)^(1/3), in skipped elements: the kernel's sample, and the superfluous candidates that it leaves,
are proportional to that."""

SEARCH = 2000
"""Fixed cost of searching a layer, in skipped elements."""

PACKINGS = ("cost", "elements", "time")
"""The costs that can be balanced over the bins."""


@dataclass(frozen=True)
class Packing:
    """The plan: the layers of each bin. One worker searches each bin.

    Attributes:
        bins: n lists of layer numbers.
        common: layers that are sent whole, so no worker searches them.
        loads: the estimated cost of each bin, by default the sum of n_{g,x} * log2(k_x).
    """

    bins: list[list[int]]
    common: list[int]
    loads: list[float]

    def message(self) -> list[int]:
        """Return the plan as n + L integers: the lengths of the bins, then their layers, then the common layers."""
        return [len(bin) for bin in self.bins] + [x for bin in self.bins for x in bin] + self.common

    @staticmethod
    def read(message: Sequence[int], n: int) -> Packing:
        """Rebuild a plan from its message; loads are not sent and stay empty."""
        bins: list[list[int]] = []
        at = n
        for length in message[:n]:
            bins.append(list(message[at : at + length]))
            at += length
        return Packing(bins, list(message[at:]), [])

    @staticmethod
    def fits(message: Sequence[int], n: int, sizes: Sequence[int]) -> bool:
        """Whether a message contains every layer once and, if budgets follow, possible budgets."""
        lengths, layers, ks = message[:n], message[n : n + len(sizes)], message[n + len(sizes) :]
        return (
            min(lengths) >= 0
            and sum(lengths) <= len(sizes)
            and sorted(layers) == list(range(len(sizes)))
            and all(0 <= k <= size for k, size in zip(ks, sizes, strict=False))
            and all(ks[x] == sizes[x] for x in layers[sum(lengths) :] if ks)
        )


def partition(sizes: Sequence[int], n: int, merge: int = 0, cut: int = 0) -> list[tuple[int, int]]:
    """Cut the flat vector into layers (start, end): one per tensor, n pieces of a tensor larger than n_g / n (Alg. 2).

    With `cut` above 0 a tensor is cut only where a multiple of n_g / (cut n) lies in it.

    Pieces differ by at most one element, the longer ones first. Empty tensors make no layer. From the first tensor to
    the last, whole neighbours become one layer while together they have at most `merge` elements and at most n_g / n,
    so the paper's bound on the largest layer holds for every `merge`.
    """
    if n < 1:
        raise ValueError(f"a partition needs at least one worker, got {n}")
    total, start, layers, merge_end = sum(sizes), 0, list[tuple[int, int]](), 0
    for size in sizes:
        ends = _cuts(start, size, total, cut * n) if cut else _pieces(start, size, total, n)
        for end in ends:
            if start < end <= merge_end:
                layers[-1] = (layers[-1][0], end)
            elif end > start:
                layers.append((start, end))
                merge_end = start + min(merge, total // n) if len(ends) == 1 else 0
            start = end
    return layers


def _pieces(start: int, size: int, total: int, n: int) -> list[int]:
    """Return the ends of the n pieces of a large tensor, or of a small one."""
    pieces = n if size > total / n else 1
    shorter, longer = divmod(size, pieces)
    return [start + piece * shorter + min(piece, longer) for piece in range(1, pieces + 1)]


def _cuts(start: int, size: int, total: int, parts: int) -> list[int]:
    """Return the edges of `parts` equal parts of the vector inside a tensor, and the tensor's end."""
    if not size:
        return [start]
    first, last = start * parts // total + 1, -(-(start + size) * parts // total)
    inside = (total * part // parts for part in range(first, last))
    return [*(edge for edge in inside if start < edge < start + size), start + size]


def assign_k(sizes: Sequence[int], norms: Sequence[float], k: int) -> list[int]:
    """Divide k among the layers in proportion to their norms, the largest norm first (Alg. 3).

    Every layer gets at least 1 and at most its size; the excess of a small layer goes to the layers after it. So the
    sum may exceed k by up to the number of layers, or be below it if the last layers are small. Among equal norms the
    first layer comes first. If k covers all elements, all are sent whatever the norms: at density 1 nothing is lost.
    """
    if k >= sum(sizes):
        return list(sizes)
    budget, left_k, left_norm = [0] * len(sizes), k, math.fsum(norms)
    for x in sorted(range(len(sizes)), key=norms.__getitem__, reverse=True):
        # Never more than left_k: after many subtractions, rounding may have made left_norm too small.
        wanted = min(left_k, int(left_k * norms[x] / left_norm)) if left_norm > 0 else 0
        budget[x] = sizes[x] if sizes[x] < wanted else max(1, wanted)
        left_k -= budget[x]
        left_norm -= norms[x]
    return budget


def apportion_k(sizes: Sequence[int], norms: Sequence[float], k: int) -> list[int]:
    """Divide exactly min(k, n_g) among the layers in proportion to their norms, by largest remainders.

    A layer whose quota reaches its size is sent whole, and the excess goes to the others in proportion. The others get
    their quotas rounded down, and those with the largest remainders one more; among equal remainders the first layer
    wins. A layer may get nothing. If all layers with a nonzero norm are whole, the rest goes to those of norm zero in
    proportion to their sizes. This is Hamilton's method with caps; it is not in the paper.
    """
    largest = max(norms, default=0.0)
    # Integers, so that no sum is rounded. A norm below 2^-64 of the largest one counts as zero.
    weights = [int(math.ldexp(norm / largest, 64)) if largest > 0 else 0 for norm in norms]
    first = _apportion(sizes, weights, k)
    zeros = [0 if weight else size for size, weight in zip(sizes, weights, strict=True)]
    return [a + b for a, b in zip(first, _apportion(sizes, zeros, k - sum(first)), strict=True)]


def _apportion(sizes: Sequence[int], weights: Sequence[int], k: int) -> list[int]:
    """Divide k among the layers with a positive weight; if k exceeds their total size, all are whole.

    Whole layers never take more than k, because each takes at most its quota. Any other layer's quota is below its
    size, so one more fits. The number of layers that get one more is below the number of remainders, because each
    remainder is below one.
    """
    budget, rest = [0] * len(sizes), [x for x in range(len(sizes)) if sizes[x] and weights[x]]
    total = sum(weights[x] for x in rest)
    while whole := [x for x in rest if k * weights[x] >= sizes[x] * total]:
        for x in whole:
            budget[x] = sizes[x]
            k, total = k - sizes[x], total - weights[x]
        rest = [x for x in rest if not budget[x]]
    quotas = {x: divmod(k * weights[x], total) for x in rest}
    more = k - sum(whole for whole, _ in quotas.values()) if rest else 0
    winners = set(sorted(rest, key=lambda x: -quotas[x][1])[:more])
    for x, (whole, _) in quotas.items():
        budget[x] = whole + (x in winners)
    return budget


def pack(sizes: Sequence[int], ks: Sequence[int], n: int, by: str = "cost") -> Packing:
    """Pack the layers into n bins, longest processing time first, by cost n_{g,x} * log2(k_x) (Alg. 4).

    With by="elements" the cost is n_{g,x} + 20 * k_x, that of a selection in linear time. With by="time" it is that of
    kernels.segmented_topk, n_{g,x} + k_x (17 - 8 k_x / n_{g,x}) + 120 (n_{g,x} k_x)^(1/3) + 2000.

    A layer that is sent whole (k_x = n_{g,x}) needs no search: it is common. A layer x with k_x = 0 costs nothing here,
    but other workers may have a budget for it, so it goes to bin x % n. Ties go to the lowest layer and the lowest bin.
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
    return Packing(bins, common, [load for load, _ in sorted(heap, key=lambda entry: entry[1])])


def _costs(sizes: Sequence[int], ks: Sequence[int], by: str) -> list[float]:
    if by == "elements":
        return [float(size + KEPT * k) for size, k in zip(sizes, ks, strict=True)]
    if by == "time":
        both = zip(sizes, ks, strict=True)
        return [_search_cost(size, k) for size, k in both]
    return [size * math.log2(k) if k > 1 else float(size) for size, k in zip(sizes, ks, strict=True)]


def _search_cost(size: int, k: int) -> float:
    return size + k * (FEW - (FEW - MANY) * k / size) + SAMPLED * (size * k) ** (1 / 3) + SEARCH
