"""A uniform random k-subset of {0, ..., d - 1} from a 64-bit key: the same on every device and in every version.

A stream of hashed counters (splitmix.py) is reduced modulo d, and the first min(k, d - k) distinct values are kept:
they are the subset or its complement. This is rejection sampling, so the subset is uniform (reducing 62 bits modulo d
favours no index by more than d / 2^62).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import compiled, splitmix
from gradwire.kernels.kernel import Kernel, Twin


def _support(key: Tensor, d: int, k: int) -> Tensor:
    """Keys int64[...] -> increasing indices below d, int64[..., k]."""
    if 2 * k > d:
        rest = support(key, d, d - k)
        free = torch.ones((*key.shape, d), dtype=torch.bool, device=key.device).scatter_(-1, rest, False)
        return free.nonzero()[:, -1].view(*key.shape, k)
    if k == 0:
        return torch.empty((*key.shape, 0), dtype=torch.int64, device=key.device)
    draws = _enough(d, k)
    while True:
        values = splitmix.stream(key, draws, bits=62).remainder_(d)
        values, kept = _first(values, k)
        if kept is not None:
            return values.masked_select(kept).view(*key.shape, k)
        draws *= 2


def _enough(d: int, k: int) -> int:
    """Draws that contain k distinct values except for one key in a million: the mean plus six standard deviations."""
    density = k / d
    mean, variance = -d * math.log1p(-density), d * (density / (1 - density) + math.log1p(-density))
    return int(mean + 6 * math.sqrt(max(variance, 0.0))) + 4


def _first(values: Tensor, k: int) -> tuple[Tensor, Tensor | None]:
    """Sort draws [..., m]; return them with a mask of the first k distinct ones, or None if a row has fewer."""
    draws = values.shape[-1]
    bits = draws.bit_length()
    # One integer holds value and order, so that equal values are sorted by the order in which they were drawn.
    marked = (values << bits).bitwise_or_(torch.arange(draws, device=values.device)).sort(-1).values
    values, order = marked >> bits, marked.bitwise_and_((1 << bits) - 1)
    order[..., 1:].add_(values[..., 1:] == values[..., :-1], alpha=draws)  # a repetition comes after all others
    last = order.sort(-1).values[..., k - 1 : k]
    return values, None if bool((last >= draws).any()) else order <= last


def _sparse_on_host(key: Tensor, d: int, k: int) -> bool:
    return 0 < 2 * k <= d and key.is_cpu


def _by_numpy(key: Tensor, d: int, k: int) -> Tensor:
    """Compute the same in half as many passes, on 32-bit integers if these hold a value and its order."""
    keys, draws = key.reshape(-1, 1).numpy().view(np.uint64), _enough(d, k)  # pyright: ignore
    while True:
        bits = draws.bit_length()
        kind = np.int32 if d << bits < 1 << 31 else np.int64
        values = (splitmix.outputs(keys, draws) >> np.uint64(2)) % np.uint64(d)
        marked = np.sort((values.astype(kind) << bits) | np.arange(draws, dtype=kind), -1)
        values, order = marked >> bits, marked & ((1 << bits) - 1)
        np.add(order[:, 1:], draws, out=order[:, 1:], where=values[:, 1:] == values[:, :-1])
        last = np.sort(order, -1)[:, k - 1 : k]
        if (last < draws).all():
            kept = values.ravel()[np.flatnonzero(order <= last)]
            return torch.from_numpy(kept.astype(np.int64)).view(*key.shape, k)  # pyright: ignore
        draws *= 2


def _draws(key: Tensor, d: int, k: int) -> bool:
    # The loop keeps d bits, which pays if k is not very small compared with d.
    return compiled.LONG <= d <= 4096 * k and k <= d and key.is_cpu and compiled.warm_up()


def _by_numba(key: Tensor, d: int, k: int) -> Tensor:
    from gradwire.kernels import cpu

    keys = key.reshape(-1).numpy().view(np.uint64)  # pyright: ignore
    return torch.from_numpy(cpu.support(keys, d, k)).view(*key.shape, k)


support = Kernel(_support, cpu=(Twin("numba", _draws, _by_numba), Twin("numpy", _sparse_on_host, _by_numpy)))
