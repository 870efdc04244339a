"""SplitMix64 (Steele, Lea and Flood 2014): hashed counters, the same on every device and in every version."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer, like the two constants below
ROUNDS = ((30, -4658895280553007687), (27, -7723592293110705685))

FEW = 4096
"""The most counters that are cached; the laboratory draws as many at every step."""

GOLDEN_WORD, LAST = np.uint64(GOLDEN % 2**64), np.uint64(31)
WORD_ROUNDS = [(np.uint64(shift), np.uint64(factor % 2**64)) for shift, factor in ROUNDS]


def stream(key: Tensor, count: int, bits: int) -> Tensor:
    """Keys int64[...] -> the top `bits` <= 63 bits of the first `count` outputs: int64[..., count] in [0, 2^bits)."""
    return _shift(_outputs(key, count), 64 - bits)


def quarters(key: int, count: int, device: torch.device) -> Tensor:
    """The first `count` 16-bit words of the outputs, four of each, the lowest first: int32[count] in [0, 2^16)."""
    z = _outputs(torch.tensor(key, device=device), (count + 3) // 4)
    words = [_shift(z, 16 * place).bitwise_and_(0xFFFF) if place else z & 0xFFFF for place in range(4)]
    return torch.stack(words, -1).view(-1)[:count].int()


def words(key: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """The first `count` outputs, uint64[count], by NumPy, which has less overhead than torch."""
    return outputs(word(key), count)


def outputs(keys: Any, count: int) -> Any:
    """The first `count` outputs of uint64 keys [..., 1]: uint64[..., count]."""
    z = (_counters if count <= FEW else _counters.__wrapped__)(count) + keys
    for shift, factor in WORD_ROUNDS:
        z ^= z >> shift
        z *= factor
    z ^= z >> LAST
    return z


def word(key: int) -> np.uint64:
    """Convert a key to the unsigned integer that the loops take."""
    return np.uint64(key % 2**64)


@lru_cache(maxsize=64)
def _counters(count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.arange(1, count + 1, dtype=np.uint64) * GOLDEN_WORD


def _outputs(key: Tensor, count: int) -> Tensor:
    """Keys int64[...] -> outputs int64[..., count], all 64 bits."""
    z = key.unsqueeze(-1) + GOLDEN * torch.arange(1, count + 1, device=key.device)
    for shift, factor in ROUNDS:
        z.bitwise_xor_(_shift(z, shift)).mul_(factor)
    return z.bitwise_xor_(_shift(z, 31))


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift right logically, without extending the sign."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)
