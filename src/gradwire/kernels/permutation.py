"""A uniform random permutation of {0, ..., d - 1} from a 64-bit key: the same on every device and in every version.

The order of d hashed counters (SplitMix64, Steele, Lea and Flood 2014). Two of their 31 bits each tie with probability
2^-31 and then stand in the order of their indices: no order of two indices is favoured by more.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, and below two more odd constants, as signed 64-bit integers
_ROUNDS = ((30, -4658895280553007687), (27, -7723592293110705685))


def permutation(key: Tensor, d: int) -> Tensor:
    """int64[] key -> int64[d]."""
    # 31 bits because torch sorts int32 by radix, in half the time of int64.
    return _hashes(key, d).int().argsort(stable=True)


def _hashes(key: Tensor, count: int) -> Tensor:
    """Give the top 31 bits of SplitMix64's first outputs: int64[count] in [0, 2^31)."""
    z = torch.arange(1, count + 1, device=key.device).mul_(_GOLDEN).add_(key)
    for bits, factor in _ROUNDS:
        z.bitwise_xor_(_shift(z, bits)).mul_(factor)
    return _shift(z.bitwise_xor_(_shift(z, 31)), 33)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift right without the sign."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)
