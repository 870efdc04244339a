"""DEFT's plan: layers, their budgets, their bins. Plain Python over layers, never over elements.

Symbols as in the paper: n workers, n_g elements in all, k = int(density * n_g), a layer is a piece of the flat vector
after partitioning, n_{g,x} its size and k_x its budget. Algorithms 2 to 4 of the paper, as its authors' code has them.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Which bin searches which layers.

    bins: n lists of layer numbers. common: layers that are sent whole, known to all and searched by nobody.
    loads: the estimated cost of each bin, sum of n_{g,x} * log2(k_x).
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


def partition(sizes: Sequence[int], n: int) -> list[tuple[int, int]]:
    """Cut the flat vector into layers (start, end): one per tensor, n pieces of a tensor larger than n_g / n (Alg. 2).

    Pieces differ by at most one element, the longer ones first. Empty tensors make no layer.
    """
    if n < 1:
        raise ValueError(f"a partition needs at least one worker, got {n}")
    total, start, layers = sum(sizes), 0, list[tuple[int, int]]()
    for size in sizes:
        pieces = n if size > total / n else 1
        least, longer = divmod(size, pieces)
        for piece in range(pieces):
            end = start + least + (piece < longer)
            if end > start:
                layers.append((start, end))
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
    for x in sorted(range(len(sizes)), key=lambda x: norms[x], reverse=True):
        # Never more than is left: what remains of the norms after many subtractions may be too small by rounding.
        share = min(left_k, int(left_k * norms[x] / left_norm)) if left_norm > 0 else 0
        budget[x] = sizes[x] if sizes[x] < share else max(1, share)
        left_k -= budget[x]
        left_norm -= norms[x]
    return budget


def pack(sizes: Sequence[int], ks: Sequence[int], n: int) -> Plan:
    """Pack the layers into n bins, longest processing time first, by cost n_{g,x} * log2(k_x) (Alg. 4).

    A layer that is sent whole (k_x = n_{g,x}) needs no search: it is common. Equal costs go by the lowest layer, equal
    loads by the lowest bin.
    """
    costs = [size * math.log2(k) if k > 1 else float(size) for size, k in zip(sizes, ks, strict=True)]
    bins: list[list[int]] = [[] for _ in range(n)]
    common: list[int] = []
    heap = [(0.0, bin) for bin in range(n)]
    for x in sorted(range(len(sizes)), key=lambda x: -costs[x]):
        if ks[x] == sizes[x]:
            common.append(x)
            continue
        load, bin = heap[0]
        heapq.heapreplace(heap, (load + costs[x], bin))
        bins[bin].append(x)
    return Plan(bins, common, [load for load, _ in sorted(heap, key=lambda entry: entry[1])])
