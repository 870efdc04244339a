"""Integers of a few bits each, packed without gaps, least significant bit first: what wire/bits.py promises."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import compiled, gpu


def nbytes(count: int, width: int) -> int:
    """Bytes that `count` values of `width` bits take."""
    return (count * width + 7) // 8


def pack(values: Tensor, width: int) -> Tensor:
    """int64[..., m] with 0 <= value < 2^width, width <= 62 -> u8[..., nbytes(m, width)]."""
    if gpu.serve(values, torch.int64) and 0 < width <= 62:
        return gpu.pack(values, width)
    if compiled.reads(values, torch.int64, compiled.SHORT) and 0 < width <= 62:
        from gradwire.kernels import cpu

        out = empty_bytes(values, nbytes(values.shape[-1], width))
        cpu.pack(compiled.rows(values), width, compiled.rows(out))
        return out
    places = torch.arange(width, device=values.device)
    return _pack_flags(((values.unsqueeze(-1) >> places) & 1).to(torch.uint8).flatten(-2))


def unpack(wire: Tensor, width: int, count: int) -> Tensor:
    """u8[..., nbytes(m, width)] -> int64[..., m]."""
    if gpu.serve(wire, torch.uint8) and 0 < width <= 62:
        return gpu.unpack(wire, width, count)
    if count >= compiled.SHORT and 0 < width <= 62 and compiled.reads(wire, torch.uint8, 0):
        from gradwire.kernels import cpu

        out = torch.empty((*wire.shape[:-1], count), dtype=torch.int64)
        cpu.unpack(compiled.rows(wire), width, compiled.rows(out))
        return out
    bits = _unpack_flags(wire, count * width).reshape(*wire.shape[:-1], count, width)
    return (bits.long() << torch.arange(width, device=wire.device)).sum(-1)


def pack_flags(flags: Tensor) -> Tensor:
    """u8[..., m] of zeros and ones -> u8[..., nbytes(m, 1)]."""
    if gpu.serve(flags, torch.uint8):
        return gpu.pack_flags(flags)
    if compiled.reads(flags, torch.uint8, compiled.SHORT):
        from gradwire.kernels import cpu

        out = empty_bytes(flags, nbytes(flags.shape[-1], 1))
        cpu.pack_flags(compiled.rows(flags), compiled.rows(out))
        return out
    return _pack_flags(flags)


def unpack_flags(wire: Tensor, count: int) -> Tensor:
    """u8[..., nbytes(m, 1)] -> u8[..., m] of zeros and ones."""
    if gpu.serve(wire, torch.uint8) and count <= 8 * len(wire):
        return gpu.unpack_flags(wire, count)
    if count >= compiled.SHORT and count <= 8 * wire.shape[-1] and compiled.reads(wire, torch.uint8, 0):
        from gradwire.kernels import cpu

        out = empty_bytes(wire, count)
        cpu.unpack_flags(compiled.rows(wire), compiled.rows(out))
        return out
    return _unpack_flags(wire, count)


def empty_bytes(like: Tensor, count: int) -> Tensor:
    """u8[..., count], with anything in it, for the rows of a tensor in the host's memory."""
    # By NumPy, whose long arrays lie in large pages: to touch fresh ones costs a third of what it does elsewhere.
    return torch.from_numpy(np.empty((*like.shape[:-1], count), np.uint8))


def _pack_flags(flags: Tensor) -> Tensor:
    length = nbytes(flags.shape[-1], 1)
    eights = torch.nn.functional.pad(flags, (0, 8 * length - flags.shape[-1])).reshape(*flags.shape[:-1], length, 8)
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=flags.device)
    return (eights * weights).sum(-1, dtype=torch.uint8)


def _unpack_flags(wire: Tensor, count: int) -> Tensor:
    places = torch.arange(8, dtype=torch.uint8, device=wire.device)
    return ((wire.unsqueeze(-1) >> places) & 1).flatten(-2)[..., :count]
