"""Ok-Topk's thresholds: what reaches one, whether one still fits, and which one keeps k of all workers' values."""

from __future__ import annotations

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.ask import AllReduce


def reach(x: Tensor, level: float) -> Tensor:
    """Places of the magnitudes of f[d] from `level` on, zeros never: increasing int64[m]."""
    return kernels.indices_above(x, level) if level > 0 else x.nonzero().view(-1)


def is_near(count: int, k: int, level: float) -> bool:
    """Whether a threshold keeps about k: half of it to twice; fewer are no fault of one that keeps everything."""
    return count <= 2 * k and (2 * count >= k or level == 0)


async def kth_largest(sizes: Tensor, k: int) -> float:
    """The k-th largest, k > 0, of all workers' magnitudes f[m], or 0 if there are fewer than k: exact, by radix.

    Magnitudes are ordered like their bits, read as a whole number. Byte by byte from the highest, the workers sum how
    many of those still in question have which value, f64[256]: four Sums of 2 KB for float32, whatever m, k and n.
    """
    keys = sizes.view(torch.int32 if sizes.dtype == torch.float32 else torch.int64)
    found = 0
    for shift in range(8 * sizes.itemsize - 8, -1, -8):
        byte = (keys >> shift) & 255
        votes = await AllReduce(torch.bincount(byte, minlength=256).double())
        atleast = votes.flip(0).cumsum(0)
        if shift == 8 * sizes.itemsize - 8 and atleast[-1] < k:
            return 0.0
        place = int((atleast < k).sum())
        k -= int(atleast[place - 1]) if place else 0
        keys = keys[byte == 255 - place]
        found = found << 8 | 255 - place
    return torch.tensor(found, dtype=keys.dtype).view(sizes.dtype).item()
