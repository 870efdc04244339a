"""A uniform random permutation of {0, ..., d - 1} from a 64-bit key: the same on every device and in every version.

The order of d hashed counters (splitmix.py). Two of their 31 bits each tie with probability
2^-31 and then stand in the order of their indices: no order of two indices is favoured by more.
"""

from __future__ import annotations

from torch import Tensor

from gradwire.kernels import splitmix


def permutation(key: Tensor, d: int) -> Tensor:
    """int64[] key -> int64[d]."""
    # 31 bits because torch sorts int32 by radix, in half the time of int64.
    return splitmix.stream(key, d, bits=31).int().argsort(stable=True)
