"""Integers of a few bits each, packed without gaps.

Wire: value i occupies bits [i * width, (i + 1) * width) of the stream, least significant bit first; bit j of the stream
is bit j % 8 of byte j // 8. The last byte is padded with zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor


def nbytes(count: int, width: int) -> int:
    """Bytes that `count` values of `width` bits take."""
    return (count * width + 7) // 8


def pack(values: Tensor, width: int) -> Tensor:
    """int64[..., m] with 0 <= value < 2^width, width <= 62 -> u8[..., nbytes(m, width)]."""
    places = torch.arange(width, device=values.device)
    return pack_flags(((values.unsqueeze(-1) >> places) & 1).to(torch.uint8).flatten(-2))


def unpack(wire: Tensor, width: int, count: int) -> Tensor:
    """u8[..., nbytes(m, width)] -> int64[..., m]."""
    bits = unpack_flags(wire, count * width).reshape(*wire.shape[:-1], count, width)
    return (bits.long() << torch.arange(width, device=wire.device)).sum(-1)


def pack_flags(flags: Tensor) -> Tensor:
    """u8[..., m] of zeros and ones -> u8[..., nbytes(m, 1)]."""
    length = nbytes(flags.shape[-1], 1)
    octets = torch.nn.functional.pad(flags, (0, 8 * length - flags.shape[-1])).reshape(*flags.shape[:-1], length, 8)
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=flags.device)
    return (octets * weights).sum(-1, dtype=torch.uint8)


def unpack_flags(wire: Tensor, count: int) -> Tensor:
    """u8[..., nbytes(m, 1)] -> u8[..., m] of zeros and ones."""
    places = torch.arange(8, dtype=torch.uint8, device=wire.device)
    return ((wire.unsqueeze(-1) >> places) & 1).flatten(-2)[..., :count]
