"""Encoding, decoding and sparse sums on a GPU, with the same bytes and sums as wire/ and vector.py define."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gradwire.kernels.gpu import words
from gradwire.kernels.gpu.chunks import launch, upload

BLOCK = 1024
"""Number of lanes of a program."""


def pack(values: Tensor, width: int) -> Tensor:
    """Compute `wire.bits.pack` of the lowest `width` bits of int64[m]: u8[ceil(m width / 8)]."""
    length = _bytes(len(values) * width)
    wire = torch.empty(length, dtype=torch.uint8, device=values.device)
    launch(words.pack, _programs(length), values, wire, len(values), width, length, BLOCK=BLOCK)
    return wire


def unpack(wire: Tensor, width: int, count: int) -> Tensor:
    """Compute `wire.bits.unpack` of u8[ceil(count width / 8)]: int64[count]."""
    values = torch.zeros(count, dtype=torch.int64, device=wire.device)
    if count and width:
        launch(words.unpack, _programs(count), wire, values, count, width, BLOCK=BLOCK)
    return values


def pack_flags(flags: Tensor) -> Tensor:
    """Compute `wire.bits.pack_flags` of u8[m] of zeros and ones, or of x < 0 for f32[m]."""
    length = _bytes(len(flags))
    wire = torch.empty(length, dtype=torch.uint8, device=flags.device)
    launch(words.pack_flags, _programs(length), flags.detach(), wire, len(flags), length, BLOCK=BLOCK)
    return wire


def unpack_flags(wire: Tensor, count: int) -> Tensor:
    """Compute `wire.bits.unpack_flags` of u8[ceil(count / 8)]: u8[count]."""
    flags = torch.empty(count, dtype=torch.uint8, device=wire.device)
    launch(words.unpack_flags, _programs(count), wire, flags, count, BLOCK=BLOCK)
    return flags


def bitmap(indices: Tensor, length: int, low: int | None = None) -> Tensor:
    """Make a bitmap u8 with the bits indices[i] set, or Elias-Fano's (indices[i] >> low) + i, as in wire/index.py.

    Args:
        indices: int64[k], increasing; the resulting bits must lie below `length`.
        length: number of bits.
        low: number of low bits in Elias-Fano; None for a bitmap of the indices.
    """
    flags = torch.zeros((length + 31) // 32, dtype=torch.int32, device=indices.device)
    k, gaps = len(indices), low is not None
    launch(words.bitmap, _programs(k), indices, flags, k, low or 0, GAPS=gaps, BLOCK=BLOCK)
    return flags.view(torch.uint8)[: _bytes(length)]


def round_natural(x: Tensor, key: int) -> Tensor:
    """Compute `wire.natural.encode` of f32[k], with the uniforms of a key: u8[k + ceil(k / 8)]."""
    k, length, signed = len(x), _bytes(len(x)), (key + 2**63) % 2**64 - 2**63
    wire = torch.empty(k + length, dtype=torch.uint8, device=x.device)
    bits, lanes = x.detach().view(torch.int32), BLOCK // 8
    launch(words.round_natural, _programs(length, lanes), bits, upload([signed], x), wire, k, length, BLOCK=lanes)
    return wire


def read_natural(wire: Tensor, k: int) -> Tensor:
    """Compute `wire.natural.decode` of u8[k + ceil(k / 8)]: f32[k]."""
    bits = torch.empty(k, dtype=torch.int32, device=wire.device)
    launch(words.read_natural, _programs(k), wire, bits, k, BLOCK=BLOCK)
    return bits.view(torch.float32)


def add_(target: Tensor, messages: Iterable[tuple[Tensor, Tensor]], alpha: float = 1.0) -> None:
    """Add alpha times sparse messages, indices int64[k] and values f32[k], to target f32[d], in place.

    Messages are added one after the other, each in its own launch. An index must not repeat within a message, so every
    sum has the messages' order, and the result is the same in every run. Indices must lie in the target; this is not
    checked.
    """
    for indices, values in messages:
        k = len(indices)
        # A fused multiply-add would round once, where the definition rounds twice.
        launch(
            words.add,
            _programs(k),
            target.detach(),
            indices,
            values.detach(),
            alpha,
            k,
            BLOCK=BLOCK,
            enable_fp_fusion=False,
        )


def scatter_add_(target: Tensor, indices: Tensor, values: Tensor, alpha: float = 1.0) -> Tensor:
    """Compute `reference.scatter_add_` of f32[d], int64[m] with repetitions and f32[m], in the definition's order.

    Sorting costs more than the sum; for indices that are known to be distinct, use `add_`.
    """
    if len(values) != len(indices):
        raise ValueError(f"every index needs its value, got {len(indices)} indices and {len(values)} values")
    m, found = len(indices), indices.sort(stable=True)
    launch(
        words.add_sorted, _programs(m),
        target.detach(), found.values, found.indices, values.detach(), alpha, m, BLOCK=BLOCK, enable_fp_fusion=False,
    )  # fmt: skip
    return target


def _bytes(bits: int) -> int:
    return (bits + 7) // 8


def _programs(lanes: int, block: int = BLOCK) -> int:
    return -(-lanes // block)
