"""Exact Top-k: of a vector, of each row, and of many spans of one vector.

On the GPU and with Numba all three are one selection over spans: a row is a span, and all rows have the same k.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import compiled, gpu, host, reference, sampling
from gradwire.kernels.accumulated import Accumulated
from gradwire.kernels.compiled import Numbers, Pairs
from gradwire.kernels.copies import zeros
from gradwire.kernels.kernel import Kernel, Twin

Spans = Sequence[tuple[int, int]]


def topk(x: Tensor | Accumulated, k: int) -> Tensor:
    """Compute `reference.topk`. In a long vector most elements are compared once and never sorted.

    For an accumulated vector whose k largest elements have been collected, only these are searched.
    """
    if not isinstance(x, Accumulated):
        return largest(x, k)
    indices = x.topk(k)
    return largest(x.values, k) if indices is None else indices


def _is_narrow(x: Tensor, *others: object) -> bool:
    return x.dtype == torch.bfloat16


def _widened(x: Tensor, k: int) -> Tensor:
    return largest(x.float(), k)


def _rows_on_gpu(x: Tensor, k: int) -> bool:
    # Shorter rows would leave most of a chunk empty (gpu/chunks.py).
    return (x.ndim == 1 or x.shape[-1] >= 1024) and gpu.serves_rows(x)


def _rows_by_triton(x: Tensor, k: int) -> Tensor:
    d, rows = x.shape[-1], x.shape[:-1].numel()
    found = gpu.segmented_topk(x.view(-1), [(row * d, row * d + d) for row in range(rows)], [k] * rows)
    return found.view(*x.shape[:-1], k) - _starts(x)


def _rows_by_numba(x: Tensor, k: int) -> Tensor:
    d, rows = x.shape[-1], x.shape[:-1].numel()
    starts = np.arange(rows) * d
    found = _select(x, np.stack([starts, starts + d], 1), np.full(rows, k), d)
    return found if x.ndim == 1 else found.view(*x.shape[:-1], k).sub_(_starts(x))


def _starts(x: Tensor) -> Tensor:
    """The first index of each row of x[..., d] in its flat memory, int64[..., 1]."""
    return x.shape[-1] * torch.arange(x.shape[:-1].numel(), device=x.device).view(*x.shape[:-1], 1)


widened = Twin("torch", _is_narrow, _widened)
largest = Kernel(
    reference.topk,
    cpu=(
        Twin("numba", compiled.long_rows, _rows_by_numba),
        widened,
        Twin("numpy", sampling.on_host, sampling.by_numpy),
        Twin("torch", sampling.long, sampling.by_torch),
    ),
    gpu=(
        Twin("triton", _rows_on_gpu, _rows_by_triton),
        widened,
        Twin("torch", sampling.long, sampling.by_torch),
    ),
)


def _spans_on_gpu(x: Tensor, spans: Spans, ks: Sequence[int]) -> bool:
    return gpu.serves(x)


def _spans_by_numba(x: Tensor, spans: Spans, ks: Sequence[int]) -> Tensor:
    if len(spans) != len(ks):
        raise ValueError(f"every span needs its k, got {len(spans)} spans and {len(ks)} ks")
    return _select(x, np.array(spans, np.int64).reshape(-1, 2), np.array(ks, np.int64), len(x))


def _select(x: Tensor, spans: Pairs, ks: Numbers, longest: int) -> Tensor:
    """Compute `reference.segmented_topk` of a contiguous x whose spans have at most `longest` elements."""
    from gradwire.kernels import cpu

    out = np.empty(int(ks.sum()), np.int64)
    scratch = compiled.scratch.keys(cpu.buffer_size(longest, int(ks.max(initial=0))))
    cpu.segmented_topk(compiled.vector(x).view(np.int32), spans, ks, out, scratch)
    return torch.from_numpy(out)


def _widened_spans(x: Tensor, spans: Spans, ks: Sequence[int]) -> Tensor:
    """Compute `reference.segmented_topk` of a bfloat16 vector; only the searched spans are widened to float32."""
    ends = list(itertools.accumulate((end - start for start, end in spans), initial=0))
    # In huge pages if NumPy gets them: touching fresh small pages costs as much as the search.
    wide = zeros((ends[-1],), torch.float32, x.device)
    for (start, end), at in zip(spans, ends, strict=False):
        wide[at : at + end - start] = x[start:end]
    return segmented_topk(wide, list(itertools.pairwise(ends)), ks)


widened_spans = Twin("torch", _is_narrow, _widened_spans)
segmented_topk = Kernel(
    reference.segmented_topk,
    cpu=(
        Twin("numba", compiled.long_vector, _spans_by_numba),
        widened_spans,
        Twin("numpy", host.reads, sampling.spans_by_numpy),
    ),
    gpu=(Twin("triton", _spans_on_gpu, gpu.segmented_topk), widened_spans),
)
