"""Ok-Topk's thresholds: select by one, check that it still keeps about k, and find the one that keeps exactly k."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.ask import AllReduce


def indices_above(x: Tensor, threshold: float) -> Tensor:
    """Return the increasing indices int64[m] of nonzero values of f[d] whose magnitudes reach the threshold."""
    return kernels.indices_above(x, threshold) if threshold > 0 else x.nonzero().view(-1)


def is_near(count: int, k: int, threshold: float) -> bool:
    """Whether a threshold keeps k / 2 to 2 k values. A threshold of 0 keeps all nonzero ones, which may be fewer."""
    return count <= 2 * k and (2 * count >= k or threshold == 0)


async def kth_largest(sizes: Tensor, k: int) -> float:
    """Return the k-th largest, k > 0, of all workers' magnitudes f[m], or 0 if there are fewer: exact, by radix.

    Magnitudes are ordered like their bits as integers. Byte by byte from the highest, the workers sum a histogram
    f64[256] of the remaining candidates: four AllReduces of 2 KB for float32, for any m, k and n.

    Raises:
        ValueError: a summed histogram is impossible.
    """
    keys = sizes.view(torch.int32 if sizes.dtype == torch.float32 else torch.int64)
    found = 0
    for shift in range(8 * sizes.itemsize - 8, -1, -8):
        byte = (keys >> shift) & 255
        histogram = await AllReduce(torch.bincount(byte, minlength=256).double())
        from_top = histogram.flip(0).cumsum(0)
        if shift == 8 * sizes.itemsize - 8 and from_top[-1] < k:
            return 0.0
        if not bool((histogram >= 0).all()) or not k <= from_top[-1] < math.inf:
            raise ValueError(f"oktopk: a histogram of {float(from_top[-1])} magnitudes does not hold the {k} largest")
        above = int((from_top < k).sum())
        k -= int(from_top[above - 1]) if above else 0
        keys = keys[byte == 255 - above]
        found = found << 8 | 255 - above
    return torch.tensor(found, dtype=keys.dtype).view(sizes.dtype).item()
