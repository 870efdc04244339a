"""k sorted indices out of d as bit-packed gaps, in a length that both ends know beforehand (Elias-Fano).

The lowest `low` bits of every index go as they are; the gaps between the rest go in unary, as one bitmap of which bit
(index_i >> low) + i is set. At a density of 1 % that is 8.6 bits an index, at 0.1 % 12.0, whatever the support, where
the entropy of a random support is 8.1 and 11.4. Sources: P. Elias 1974, R. Fano 1971.

Wire, for k > 0:
    | low bits: k values of `low` bits | bitmap: k + ((d - 1) >> low) bits |      each part padded to a whole byte
or, where it is shorter (dense supports), and then `low` is None:
    | bitmap of d bits |
`low` is the value that makes the message shortest, the smaller one of two that tie.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from gradwire.kernels import gaps
from gradwire.wire import bits


def nbytes(d: int, k: int) -> int:
    """Bytes that k sorted indices out of d take."""
    return _plan(d, k)[1]


def encode(indices: Tensor, d: int) -> Tensor:
    """int64[..., k], strictly increasing on the last axis, in [0, d) -> u8[..., nbytes(d, k)]."""
    k = indices.shape[-1]
    low, _ = _plan(d, k)
    if k == 0:
        return torch.empty((*indices.shape[:-1], 0), dtype=torch.uint8, device=indices.device)
    return gaps.encode(indices, d, low)


def decode(wire: Tensor, d: int, k: int) -> Tensor:
    """u8[..., nbytes(d, k)] -> int64[..., k], strictly increasing.

    Raises:
        ValueError: the bytes are not an encoding of k indices below d.
    """
    low, length = _plan(d, k)
    if wire.shape[-1] != length:
        raise ValueError(f"{k} indices below {d} take {length} bytes, got {wire.shape[-1]}")
    if k == 0:
        return torch.empty((*wire.shape[:-1], 0), dtype=torch.int64, device=wire.device)
    return gaps.decode(wire, d, k, low)


@lru_cache(maxsize=4096)
def _plan(d: int, k: int) -> tuple[int | None, int]:
    if not 0 <= k <= d:
        raise ValueError(f"cannot send {k} distinct indices out of {d}")
    if k == 0:
        return 0, 0
    length, low = min(
        (bits.nbytes(k, low) + bits.nbytes(k + ((d - 1) >> low), 1), low) for low in range(max(1, d.bit_length()))
    )
    return (low, length) if length <= bits.nbytes(d, 1) else (None, bits.nbytes(d, 1))
