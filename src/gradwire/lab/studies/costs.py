"""DEFT's cost model: the speed-up by n workers if selecting k of m elements costs m log2 k (section 4 of the paper).

f(n) = n_g log2 k / (load of the heaviest bin). With equal layers and k split evenly it is
f_trivial(n) = n log k / (log k - log n) >= n. A layer of up to n_g / n elements is never split, so f may be below
f_trivial for real shapes.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from gradwire.exchange.deft import assign_k, pack, partition
from gradwire.layout import Layout


@dataclass(frozen=True)
class SearchCost:
    """The modelled costs of one layout with n workers.

    layers: number of layers after partitioning. speedup: f(n). trivial: f_trivial(n). density: the realised density,
    sum of k_x / n_g. heaviest: load of the heaviest bin divided by the mean load; 1 is a perfect packing.
    """

    n: int
    layers: int
    speedup: float
    trivial: float
    density: float
    heaviest: float


def cost(layout: Layout, density: float, n: int, scales: Sequence[float] | None = None) -> SearchCost:
    """Pack a layout for n workers, with gradients of norm sqrt(n_{g,x}) * scale in layer x, and compute its costs.

    Args:
        layout: the model's tensors.
        density: k / n_g.
        n: number of workers.
        scales: one positive scale for each tensor, which holds for all of its pieces; by default all 1.

    Raises:
        ValueError: the number of scales is not the number of tensors.
    """
    scales = [1.0] * len(layout.sizes) if scales is None else scales
    if len(scales) != len(layout.sizes):
        raise ValueError(f"{len(layout.sizes)} tensors need as many scales, got {len(scales)}")
    layers = partition(layout.sizes, n)
    sizes = [end - start for start, end in layers]
    ends = list(itertools.accumulate(layout.sizes))
    norms = [math.sqrt(end - start) * scales[bisect.bisect_right(ends, start)] for start, end in layers]
    k = int(density * layout.d)
    ks = assign_k(sizes, norms, k)
    loads = pack(sizes, ks, n).loads
    return SearchCost(
        n=n,
        layers=len(layers),
        speedup=layout.d * math.log2(k) / max(loads),
        trivial=trivial(k, n),
        density=sum(ks) / layout.d,
        heaviest=max(loads) * n / sum(loads),
    )


def trivial(k: int, n: int) -> float:
    """f_trivial(n) = n log k / (log k - log n); inf for n >= k."""
    return n * math.log(k) / (math.log(k) - math.log(n)) if n < k else math.inf
