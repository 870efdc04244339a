"""Triton's loops for vectors on a GPU (loops.py, words.py), and when they serve.

They have not yet been run on a GPU: they are compiled for sm_90 and tested in Triton's interpreter. Triton comes with
torch for CUDA. Each function computes its namesake in `reference` or wire/, with the same bits (norms within 1e-12) in
every run: no floating-point sum uses atomics, and indices are written in their order. Triton is not imported before the
first vector on a GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

__all__ = [
    "add_",
    "bitmap",
    "indices_above",
    "norms",
    "on_gpu",
    "pack",
    "pack_flags",
    "read_natural",
    "ready",
    "round_natural",
    "scatter_add_",
    "segmented_topk",
    "serves",
    "serves_rows",
    "unpack",
    "unpack_flags",
]

logger = logging.getLogger("gradwire")


def on_gpu(x: Tensor) -> bool:
    """Whether x is on a CUDA device, where Triton's loops run."""
    return x.is_cuda


@lru_cache(maxsize=64)
def ready(device: torch.device) -> bool:
    """Whether the loops work on a device; tried at the first call, with a warning if they do not."""
    try:
        if torch.version.hip is not None:
            raise ImportError("gradwire's loops are written for CUDA")
        # Triton compiles at the first launch, for which it needs a C compiler and a GPU that it supports.
        works = norms(torch.ones(3, device=device), [(0, 3)])[0] > 1
    except Exception as error:  # whatever fails in compiler, driver or GPU, plain torch still works
        logger.warning("%s: on %s selecting takes several times as long as with Triton", error, device)
        return False
    return works


def serves(x: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Whether x is a contiguous vector [d] of this dtype on a GPU where Triton works."""
    return x.ndim == 1 and serves_rows(x, dtype)


def serves_rows(x: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Whether x is a contiguous tensor [..., d] of this dtype on a GPU where Triton works."""
    return on_gpu(x) and x.dtype == dtype and x.is_contiguous() and ready(x.device)


def segmented_topk(x: Tensor, spans: Sequence[tuple[int, int]], ks: Sequence[int]) -> Tensor:
    """Compute `reference.segmented_topk` of an x that `serves` accepts."""
    from gradwire.kernels.gpu import selection

    with torch.cuda.device_of(x):
        return selection.segmented_topk(x, spans, ks)


def indices_above(x: Tensor, threshold: float) -> Tensor:
    """Compute `reference.indices_above` of an x that `serves` accepts, for a threshold above 0."""
    from gradwire.kernels.gpu import selection

    with torch.cuda.device_of(x):
        return selection.indices_above(x, threshold)


def norms(x: Tensor, spans: Sequence[tuple[int, int]]) -> list[float]:
    """Compute `reference.norms` of an x that `serves` accepts, within 1e-12."""
    from gradwire.kernels.gpu import sums

    with torch.cuda.device_of(x):
        return sums.norms(x, spans)


def pack(values: Tensor, width: int) -> Tensor:
    """Compute `wire.bits.pack` of the lowest `width` bits of int64[m], ignoring the others: u8[ceil(m width / 8)]."""
    from gradwire.kernels.gpu import messages

    with torch.cuda.device_of(values):
        return messages.pack(values, width)


def unpack(wire: Tensor, width: int, count: int) -> Tensor:
    """Compute `wire.bits.unpack` of u8[ceil(count width / 8)]: int64[count]."""
    from gradwire.kernels.gpu import messages

    with torch.cuda.device_of(wire):
        return messages.unpack(wire, width, count)


def pack_flags(flags: Tensor) -> Tensor:
    """Compute `wire.bits.pack_flags` of u8[m] of zeros and ones, or of x < 0 for f32[m]."""
    from gradwire.kernels.gpu import messages

    with torch.cuda.device_of(flags):
        return messages.pack_flags(flags)


def unpack_flags(wire: Tensor, count: int) -> Tensor:
    """Compute `wire.bits.unpack_flags` of u8[ceil(count / 8)]: u8[count]."""
    from gradwire.kernels.gpu import messages

    with torch.cuda.device_of(wire):
        return messages.unpack_flags(wire, count)


def bitmap(indices: Tensor, length: int, low: int | None = None) -> Tensor:
    """Make u8[ceil(length / 8)] with bits indices[i] set, or, with Elias-Fano's `low`, bits (indices[i] >> low) + i.

    The indices, int64[k], must increase, and the bits must lie below `length`.
    """
    from gradwire.kernels.gpu import messages

    with torch.cuda.device_of(indices):
        return messages.bitmap(indices, length, low)


def round_natural(x: Tensor, key: int) -> Tensor:
    """Compute `wire.natural.encode` of f32[k], with the uniforms of a key: u8[k + ceil(k / 8)]."""
    from gradwire.kernels.gpu import messages

    with torch.cuda.device_of(x):
        return messages.round_natural(x, key)


def read_natural(wire: Tensor, k: int) -> Tensor:
    """Compute `wire.natural.decode` of u8[k + ceil(k / 8)]: f32[k]."""
    from gradwire.kernels.gpu import messages

    with torch.cuda.device_of(wire):
        return messages.read_natural(wire, k)


def add_(target: Tensor, messages: Iterable[tuple[Tensor, Tensor]], alpha: float = 1.0) -> None:
    """Add alpha times sparse messages, indices int64[k] and values f32[k], to target f32[d], in place and in order.

    There is one launch for each message. An index must not repeat within a message, so every sum has the messages'
    order. Indices must lie in the target; this is not checked.
    """
    from gradwire.kernels.gpu import messages as loops

    with torch.cuda.device_of(target):
        loops.add_(target, messages, alpha)


def scatter_add_(target: Tensor, indices: Tensor, values: Tensor, alpha: float = 1.0) -> Tensor:
    """Compute `reference.scatter_add_` of f32[d], int64[m] and f32[m] in its order, by sorting; indices may repeat.

    Indices must lie in the target; this is not checked. If no index repeats, `add_` is faster.
    """
    from gradwire.kernels.gpu import messages

    with torch.cuda.device_of(target):
        return messages.scatter_add_(target, indices, values, alpha)
