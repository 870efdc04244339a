"""Values on the wire, in one of six formats. All numbers are little-endian.

float64   | k x 8 bytes |
float32   | k x 4 bytes |
bfloat16  | k x 2 bytes |    rounded to nearest even; values beyond the largest bfloat16 are clamped to it
natural   | k bytes of exponents | ceil(k / 8) bytes of signs |      (wire/natural.py)
bits4     | 8 x float32: levels | k codes of 4 bits |                (wire/classes.py)
bits2     | 2 x float32: levels | k codes of 2 bits |

natural is unbiased. bfloat16, bits4 and bits2 are for error feedback, which adds their rounding errors to the next
vector.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from gradwire.layout import Turn
from gradwire.wire import classes, natural

Format: TypeAlias = Literal["bfloat16", "bits2", "bits4", "float32", "float64", "natural"]

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
_WIDTHS = {"bits2": 2, "bits4": 4}

OMEGA: dict[str, float | None] = {
    "float64": 0.0,
    "float32": 0.0,
    "bfloat16": None,
    "natural": 1 / 8,
    "bits4": None,
    "bits2": None,
}
"""Relative variance of the unbiased formats, None for biased ones; float32 and float64 count as exact."""

_DELTA: dict[str, float] = {"float64": 1.0, "float32": 1.0, "bfloat16": 1 - 2.0**-16, "natural": 7 / 8}
"""Contraction of formats. bfloat16's rounding error is at most half a unit in its last place, 2^-8 of the value."""


def check(name: str) -> None:
    """Raise ValueError for a format that does not exist."""
    if name not in get_args(Format):
        raise ValueError(f"values must be one of {', '.join(get_args(Format))}, got {name!r}")


def delta(name: Format, k: int) -> float:
    """Return the contraction of k values in a format; for bits4 and bits2 the worst case over all messages."""
    return classes.delta(_WIDTHS[name], k) if name in _WIDTHS else _DELTA[name]


def nbytes(name: Format, k: int) -> int:
    """Return the bytes of k values in a format."""
    if name in _WIDTHS:
        return classes.nbytes(k, _WIDTHS[name])
    return natural.nbytes(k) if name == "natural" else k * _DTYPES[name].itemsize


def encode(x: Tensor, name: Format, key: int = 0) -> Tensor:
    """Finite f[..., k] -> u8[..., nbytes(name, k)]; only `natural` rounds at random, by the uniforms of `key`."""
    if name == "natural":
        return natural.encode(x, key)
    if name in _WIDTHS:
        return classes.encode(x, _WIDTHS[name])
    dtype, limit = _range(name, x.dtype)
    return x.clamp(-limit, limit).to(dtype).contiguous().view(torch.uint8)


def decode(wire: Tensor, name: Format, k: int) -> Tensor:
    """u8[..., nbytes(name, k)] -> f[..., k], float64 for `float64`, else float32."""
    if wire.shape[-1] != nbytes(name, k):
        raise ValueError(f"{k} values as {name} take {nbytes(name, k)} bytes, got {wire.shape[-1]}")
    if name == "natural":
        return natural.decode(wire, k)
    if name in _WIDTHS:
        return classes.decode(wire, k, _WIDTHS[name])
    # Copy to a new tensor, because a slice of a larger message may not be aligned for the wider dtype.
    values = torch.empty((*wire.shape[:-1], k), dtype=_DTYPES[name], device=wire.device)
    values.view(torch.uint8).copy_(wire)
    return values if name == "float64" else values.float()


def decoded(x: Tensor, name: Format, turn: Turn) -> Tensor:
    """f[..., k] -> f[..., k] in the same dtype and new memory: the values that a peer decodes."""
    if name in _WIDTHS:
        return decode(encode(x, name), name, x.shape[-1]).to(x.dtype)
    if name == "natural":
        return natural.decoded(x, turn.key(shared=False))
    dtype, limit = _range(name, x.dtype)
    values = x.clamp(-limit, limit)
    return values if dtype == x.dtype else values.to(dtype).to(x.dtype)


@lru_cache
def _range(name: Format, source: torch.dtype) -> tuple[torch.dtype, float]:
    """Return the dtype of a format, and the largest value that both it and the source represent."""
    dtype = _DTYPES[name]
    return dtype, min(torch.finfo(dtype).max, torch.finfo(source).max)
