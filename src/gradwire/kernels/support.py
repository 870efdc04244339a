"""A uniform random k-subset of {0, ..., d - 1} from a 64-bit key: the same on every device and in every version.

A stream of hashed counters (SplitMix64, Steele, Lea and Flood 2014) is reduced modulo d, and the first min(k, d - k)
distinct values are kept: they are the subset or its complement. That is sampling by rejection, so the subset is uniform
(the reduction of 62 bits modulo d favours no index by more than d / 2^62).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, and below two more odd constants, as signed 64-bit integers


def support(key: Tensor, d: int, k: int) -> Tensor:
    """int64[...] keys -> int64[..., k] increasing indices below d."""
    if 2 * k > d:
        rest = support(key, d, d - k)
        free = torch.ones((*key.shape, d), dtype=torch.bool, device=key.device).scatter_(-1, rest, False)
        return free.nonzero()[:, -1].view(*key.shape, k)
    if k == 0:
        return torch.empty((*key.shape, 0), dtype=torch.int64, device=key.device)
    draws = int(d * math.log(d / (d - k)) + 4 * math.sqrt(k)) + 8
    while True:
        values = _mix(key.unsqueeze(-1) + GOLDEN * torch.arange(1, draws + 1, device=key.device)) % d
        kept = _first(values, k)
        if bool((kept.sum(-1) == k).all()):
            return values[kept].view(*key.shape, k).sort(-1).values
        draws *= 2


def _first(values: Tensor, k: int) -> Tensor:
    """Mark the first occurrences of the first k distinct values on the last axis."""
    order = values.sort(dim=-1, stable=True)
    new = torch.ones_like(values, dtype=torch.bool)
    new[..., 1:] = order.values[..., 1:] != order.values[..., :-1]
    new = torch.zeros_like(new).scatter_(-1, order.indices, new)
    return new & (new.cumsum(-1) <= k)


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser, its two lowest bits dropped so that the result is not negative: int64 in [0, 2^62)."""
    z = (z ^ _shift(z, 30)) * -4658895280553007687
    z = (z ^ _shift(z, 27)) * -7723592293110705685
    return _shift(z ^ _shift(z, 31), 2)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift right without the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
