"""Shared by the laws of compressors: turns, sizes, test vectors, and the check of decoded messages."""

from __future__ import annotations

import torch
from torch import Tensor

from gradwire.compress.protocol import Compressor, Ragged
from gradwire.layout import Layout, Turn
from gradwire.testing.trial import Trial, form, normal
from gradwire.vector import Dense, Message, Sparse

SIZES = (0, 1, 2, 3, 7, 16, 33, 60, 257, 1000, 9001)
"""Dimensions d: none, one, odd numbers, sizes around whole bytes and words, and one long enough for compiled loops."""

LARGEST = 3.0e35
"""A magnitude that stays finite in float32 when an unbiased operator scales it by d / k = 100."""


def turn(d: int, seed: int, step: int = 0, rank: int | slice = 0, size: int = 1) -> Turn:
    """A worker's turn with a vector of d elements."""
    return Turn(rank, size, step, Layout(["x"], [(d,)]), seed)


def vectors(d: int, seed: int) -> dict[str, Tensor]:
    """f64[d] by name: a normal vector, and vectors for which omega or delta is attained."""
    x = normal(d, seed=seed)
    spike = torch.zeros(d, dtype=torch.float64)
    spike[d // 2 : d // 2 + 1] = 1.0
    return {
        "normal": x,
        "equal values": torch.ones(d, dtype=torch.float64),
        "a spike": spike,
        "four thirds": torch.full((d,), 4 / 3, dtype=torch.float64),  # worst for rounding to powers of two
        "six orders of magnitude": x * torch.logspace(0, -6, d, dtype=torch.float64),
    }


def hard_vectors(d: int, seed: int, largest: float) -> dict[str, Tensor]:
    """f[..., d] by name: extremes of float32, non-contiguous memory, leading axes, float64."""
    x = normal(2, d, 3, seed=seed).float()
    return {
        "zeros": torch.zeros(d),
        "minus zeros": -torch.zeros(d),
        "subnormal values": torch.full((d,), 1e-42),
        "large values": torch.full((d,), largest),
        "large negative values": torch.full((d,), -largest),
        "half zeros": torch.where(x[0, :, 0] > 0, x[0, :, 0], 0.0),
        "tiny and zero": torch.where(x[0, :, 0] > 0, x[0, :, 0] * 1e-30, 0.0),
        "bfloat16's values": x[0, :, 0].bfloat16().float(),
        "a column": x[0, :, 0],
        "rows with gaps": x.transpose(1, 2),
        "one row many times": x[0, :, 0].expand(3, d),
        "float64": x[0, :, 0].double(),
        "float64 rows with gaps": x.double().transpose(1, 2),
    }


def length(op: Compressor, wire: Tensor, d: int) -> int:
    """The bytes that a row of the wire should have: `nbytes(d)`, or for a ragged operator `length(wire, d)`."""
    return op.length(wire, d) if isinstance(op, Ragged) else op.nbytes(d)


def check_message(trial: Trial, message: Message, shape: tuple[int, ...], words: str) -> None:
    """Fail unless a decoded vector has this shape [..., d], floating-point values, and indices in [0, d)."""
    trial.require(isinstance(message, Dense | Sparse), f"{words} is a {type(message).__name__}, not Dense or Sparse")
    trial.require(message.values.is_floating_point(), f"{words} has values {form(message.values)}")
    if isinstance(message, Sparse):
        _check_indices(trial, message, shape, words)
    dense = message.dense()
    trial.require(tuple(dense.shape) == shape, f"{words} has shape {list(dense.shape)} instead of {list(shape)}")


def _check_indices(trial: Trial, message: Sparse, shape: tuple[int, ...], words: str) -> None:
    d, indices = shape[-1], message.indices
    trial.require(message.d == d, f"{words} has dimension {message.d} instead of {d}")
    trial.require(
        indices.dtype == torch.int64 and indices.shape == message.values.shape,
        f"{words} has indices {form(indices)} for values {form(message.values)}",
    )
    outside = indices[(indices < 0) | (indices >= d)]
    if outside.numel():
        trial.fail(f"{words} has the index {int(outside.flatten()[0])}, outside [0, {d})")


def through(op: Compressor, x: Tensor, whose: Turn) -> Tensor:
    """Encode and decode x f[..., d]; return the dense vector that a peer receives."""
    return op.decode(op.encode(x, whose), x.shape[-1]).dense()


def is_random(op: Compressor, seed: int, d: int = 60) -> bool:
    """Whether the operator is random: one vector decodes to different values at different steps."""
    x = normal(d, seed=seed)
    first, *others = (through(op, x, turn(d, seed, step)) for step in range(8))
    return any(not torch.equal(first, other) for other in others)
