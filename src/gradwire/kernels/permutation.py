"""A uniform random permutation of {0, ..., d - 1} from a 64-bit key: the same on every device and in every version.

It is the order of d hashed counters of 31 bits (splitmix.py). Two of them tie with probability 2^-31 and are then
ordered by index, so no order of two indices is favoured by more than that.
"""

from __future__ import annotations

from torch import Tensor

from gradwire.kernels import splitmix


def permutation(key: Tensor, d: int) -> Tensor:
    """Key int64[] -> permutation int64[d]."""
    # 31 bits, because torch sorts int32 by radix, in half the time of int64.
    return splitmix.stream(key, d, bits=31).int().argsort(stable=True)
