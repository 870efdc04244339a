"""Integers of a few bits each, packed without gaps, least significant bit first: the format of wire/bits.py.

Every row takes a whole number of bytes. On the GPU, rows without padding are packed as one long row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradwire.kernels import compiled, gpu
from gradwire.kernels.kernel import Kernel, Twin

MAX_WIDTH = 62
"""The most bits of an integer that the loops pack."""


def nbytes(count: int, width: int) -> int:
    """Bytes that `count` values of `width` bits take."""
    return (count * width + 7) // 8


def whole_rows(x: Tensor, count: int, width: int) -> bool:
    """Whether the rows of x[..., m] can be packed as one row, or unpacked as one to `count` values a row."""
    return x.ndim == 1 or (count * width % 8 == 0 and x.is_contiguous())


def _pack(values: Tensor, width: int) -> Tensor:
    """int64[..., m] with 0 <= value < 2^width, width <= 62 -> u8[..., nbytes(m, width)]."""
    shifts = torch.arange(width, device=values.device)
    return _pack_flags(((values.unsqueeze(-1) >> shifts) & 1).to(torch.uint8).flatten(-2))


def _packs_on_gpu(values: Tensor, width: int) -> bool:
    return (
        0 < width <= MAX_WIDTH and gpu.serves_rows(values, torch.int64) and whole_rows(values, values.shape[-1], width)
    )


def _pack_by_triton(values: Tensor, width: int) -> Tensor:
    return gpu.pack(values.view(-1), width).view(*values.shape[:-1], nbytes(values.shape[-1], width))


def _packs(values: Tensor, width: int) -> bool:
    return values.numel() >= compiled.SHORT and 0 < width <= MAX_WIDTH and compiled.reads(values, torch.int64)


def _pack_by_numba(values: Tensor, width: int) -> Tensor:
    from gradwire.kernels import cpu

    out = compiled.empty(values, nbytes(values.shape[-1], width), torch.uint8)
    cpu.pack(compiled.rows(values), width, compiled.rows(out))
    return out


pack = Kernel(
    _pack,
    cpu=(Twin("numba", _packs, _pack_by_numba),),
    gpu=(Twin("triton", _packs_on_gpu, _pack_by_triton),),
)


def _unpack(wire: Tensor, width: int, count: int) -> Tensor:
    """u8[..., nbytes(m, width)] -> int64[..., m]."""
    bits = _unpack_flags(wire, count * width).reshape(*wire.shape[:-1], count, width)
    return (bits.long() << torch.arange(width, device=wire.device)).sum(-1)


def _unpacks_on_gpu(wire: Tensor, width: int, count: int) -> bool:
    exact = wire.ndim == 1 or wire.shape[-1] == nbytes(count, width)
    return 0 < width <= MAX_WIDTH and exact and gpu.serves_rows(wire, torch.uint8) and whole_rows(wire, count, width)


def _unpack_by_triton(wire: Tensor, width: int, count: int) -> Tensor:
    return gpu.unpack(wire.view(-1), width, wire.shape[:-1].numel() * count).view(*wire.shape[:-1], count)


def _unpacks(wire: Tensor, width: int, count: int) -> bool:
    return (
        compiled.in_all(wire, count) >= compiled.SHORT and 0 < width <= MAX_WIDTH and compiled.reads(wire, torch.uint8)
    )


def _unpack_by_numba(wire: Tensor, width: int, count: int) -> Tensor:
    from gradwire.kernels import cpu

    out = compiled.empty(wire, count, torch.int64)
    cpu.unpack(compiled.rows(wire), width, compiled.rows(out))
    return out


unpack = Kernel(
    _unpack,
    cpu=(Twin("numba", _unpacks, _unpack_by_numba),),
    gpu=(Twin("triton", _unpacks_on_gpu, _unpack_by_triton),),
)


def _pack_flags(flags: Tensor) -> Tensor:
    """u8[..., m] of zeros and ones -> u8[..., nbytes(m, 1)]."""
    length = nbytes(flags.shape[-1], 1)
    eights = torch.nn.functional.pad(flags, (0, 8 * length - flags.shape[-1])).reshape(*flags.shape[:-1], length, 8)
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=flags.device)
    return (eights * weights).sum(-1, dtype=torch.uint8)


def _flags_on_gpu(flags: Tensor) -> bool:
    return gpu.serves_rows(flags, torch.uint8) and whole_rows(flags, flags.shape[-1], 1)


def _pack_flags_by_triton(flags: Tensor) -> Tensor:
    return gpu.pack_flags(flags.view(-1)).view(*flags.shape[:-1], nbytes(flags.shape[-1], 1))


def _many_flags(flags: Tensor) -> bool:
    return flags.numel() >= compiled.SHORT and compiled.reads(flags, torch.uint8)


def _pack_flags_by_numba(flags: Tensor) -> Tensor:
    from gradwire.kernels import cpu

    out = compiled.empty(flags, nbytes(flags.shape[-1], 1), torch.uint8)
    cpu.pack_flags(compiled.rows(flags), compiled.rows(out))
    return out


pack_flags = Kernel(
    _pack_flags,
    cpu=(Twin("numba", _many_flags, _pack_flags_by_numba),),
    gpu=(Twin("triton", _flags_on_gpu, _pack_flags_by_triton),),
)


def _unpack_flags(wire: Tensor, count: int) -> Tensor:
    """u8[..., nbytes(m, 1)] -> u8[..., m] of zeros and ones."""
    shifts = torch.arange(8, dtype=torch.uint8, device=wire.device)
    return ((wire.unsqueeze(-1) >> shifts) & 1).flatten(-2)[..., :count]


def _flags_to_gpu(wire: Tensor, count: int) -> bool:
    exact = count <= 8 * len(wire) if wire.ndim == 1 else wire.shape[-1] == nbytes(count, 1)
    return exact and gpu.serves_rows(wire, torch.uint8) and whole_rows(wire, count, 1)


def _unpack_flags_by_triton(wire: Tensor, count: int) -> Tensor:
    return gpu.unpack_flags(wire.view(-1), wire.shape[:-1].numel() * count).view(*wire.shape[:-1], count)


def _to_many_flags(wire: Tensor, count: int) -> bool:
    made = compiled.in_all(wire, count)
    return made >= compiled.SHORT and count <= 8 * wire.shape[-1] and compiled.reads(wire, torch.uint8)


def _unpack_flags_by_numba(wire: Tensor, count: int) -> Tensor:
    from gradwire.kernels import cpu

    out = compiled.empty(wire, count, torch.uint8)
    cpu.unpack_flags(compiled.rows(wire), compiled.rows(out))
    return out


unpack_flags = Kernel(
    _unpack_flags,
    cpu=(Twin("numba", _to_many_flags, _unpack_flags_by_numba),),
    gpu=(Twin("triton", _flags_to_gpu, _unpack_flags_by_triton),),
)
