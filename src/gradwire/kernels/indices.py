"""Loops that encode and decode increasing indices, in the formats that wire/index.py defines.

A message has `split` bytes with the `low` low bits of every index, followed by a bitmap of `length` bits. `low` is None
for a bitmap of the indices themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradwire.kernels import compiled, gpu
from gradwire.kernels.kernel import Twin
from gradwire.kernels.packing import nbytes

MAX_LOW = 56
"""The most low bits that fit into one 64-bit word, wherever in a byte they begin."""


def _on_gpu(indices: Tensor, d: int, low: int | None, split: int, length: int) -> bool:
    return gpu.serves(indices, torch.int64)


def _encode_by_triton(indices: Tensor, d: int, low: int | None, split: int, length: int) -> Tensor:
    return torch.cat([gpu.pack(indices, low or 0), gpu.bitmap(indices, length, low)])


def _many(indices: Tensor, d: int, low: int | None, split: int, length: int) -> bool:
    return indices.numel() >= compiled.SHORT and (low or 0) <= MAX_LOW and compiled.reads(indices, torch.int64)


def _encode_by_numba(indices: Tensor, d: int, low: int | None, split: int, length: int) -> Tensor:
    from gradwire.kernels import cpu

    out = compiled.empty(indices, split + nbytes(length, 1), torch.uint8)
    cpu.encode(compiled.rows(indices), d, low or 0, int(low is not None), split, compiled.rows(out))
    return out


encode_on_gpu = (Twin("triton", _on_gpu, _encode_by_triton),)
encode = (Twin("numba", _many, _encode_by_numba),)


def _makes_many(wire: Tensor, d: int, k: int, low: int | None, split: int, length: int) -> bool:
    made = compiled.in_all(wire, k)
    return made >= compiled.SHORT and (low or 0) <= MAX_LOW and compiled.reads(wire, torch.uint8)


def _decode_by_numba(wire: Tensor, d: int, k: int, low: int | None, split: int, length: int) -> Tensor:
    from gradwire.kernels import cpu

    out = compiled.empty(wire, k, torch.int64)
    wrong = cpu.decode(compiled.rows(wire), d, low or 0, int(low is not None), split, length, compiled.rows(out))
    if wrong == 1:
        raise ValueError(f"the bytes do not hold {k} indices")
    if wrong:
        raise ValueError(f"the bytes are not {k} increasing indices below {d}")
    return out


decode = (Twin("numba", _makes_many, _decode_by_numba),)
