"""Increasing indices as low bits and a bitmap of the gaps between the rest, or as a plain bitmap (wire/index.py).

`low` is the number of low bits, or None for the plain bitmap.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradwire.kernels import compiled, gpu
from gradwire.kernels.packing import empty_bytes, nbytes, pack, pack_flags, unpack, unpack_flags

MOST = 56
"""Low bits that lie in 64 bits, wherever in a byte they begin."""


def encode(indices: Tensor, d: int, low: int | None) -> Tensor:
    """int64[..., k], strictly increasing on the last axis, in [0, d), k > 0 -> u8[..., m]."""
    k = indices.shape[-1]
    split, length = layout(d, k, low)
    if gpu.serve(indices, torch.int64):
        return torch.cat([gpu.pack(indices, low or 0), gpu.bitmap(indices, length, low)])
    if (low or 0) <= MOST and compiled.reads(indices, torch.int64, compiled.SHORT):
        from gradwire.kernels import cpu

        out = empty_bytes(indices, split + nbytes(length, 1))
        cpu.encode(compiled.rows(indices), d, low or 0, int(low is not None), split, compiled.rows(out))
        return out
    if low is None:
        return _bitmap(indices, d)
    upper = _bitmap((indices >> low) + torch.arange(k, device=indices.device), length)
    return torch.cat([pack(indices & ((1 << low) - 1), low), upper], -1)


def decode(wire: Tensor, d: int, k: int, low: int | None) -> Tensor:
    """u8[..., m], as many as `encode` makes -> int64[..., k], strictly increasing, k > 0.

    Raises:
        ValueError: the bytes are not an encoding of k indices below d.
    """
    split, length = layout(d, k, low)
    if (low or 0) <= MOST and k >= compiled.SHORT and compiled.reads(wire, torch.uint8, 0):
        return _decode(wire, d, k, low, split, length)
    if low is None:
        return _positions(wire, d, k)
    upper = _positions(wire[..., split:], length, k) - torch.arange(k, device=wire.device)
    indices = (upper << low) | unpack(wire[..., :split], low, k)
    if bool((indices[..., 1:] <= indices[..., :-1]).any()) or (indices.numel() and int(indices.max()) >= d):
        raise ValueError(f"the bytes are not {k} increasing indices below {d}")
    return indices


def layout(d: int, k: int, low: int | None) -> tuple[int, int]:
    """Bytes of low bits, and bits of the bitmap behind them."""
    return (0, d) if low is None else (nbytes(k, low), k + ((d - 1) >> low))


def _decode(wire: Tensor, d: int, k: int, low: int | None, split: int, length: int) -> Tensor:
    from gradwire.kernels import cpu

    out = torch.empty((*wire.shape[:-1], k), dtype=torch.int64)
    wrong = cpu.decode(compiled.rows(wire), d, low or 0, int(low is not None), split, length, compiled.rows(out))
    if wrong:
        raise ValueError(
            f"the bytes do not hold {k} indices"
            if wrong == 1
            else f"the bytes are not {k} increasing indices below {d}"
        )
    return out


def _bitmap(positions: Tensor, length: int) -> Tensor:
    flags = torch.zeros((*positions.shape[:-1], length), dtype=torch.uint8, device=positions.device)
    return pack_flags(flags.scatter_(-1, positions, 1))


def _positions(bitmap: Tensor, length: int, k: int) -> Tensor:
    flags = unpack_flags(bitmap, length)
    if bool((flags.sum(-1) != k).any()):
        raise ValueError(f"the bytes do not hold {k} indices")
    return flags.nonzero()[:, -1].view(*bitmap.shape[:-1], k)
