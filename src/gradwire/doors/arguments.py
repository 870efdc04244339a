"""Checks of the arguments that doors share. They run before any process group is opened."""

from __future__ import annotations

import math
import operator

import torch

from gradwire.checks import is_number
from gradwire.exchange import Exchange
from gradwire.exchange.parts import parts_of
from gradwire.memory.ef import EF


def as_seed(seed: object) -> int:
    """Return the seed as an int. Raises TypeError if it is not a whole number."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TypeError(f"a seed is a whole number, got {seed!r}")
    return operator.index(seed)  # pyright: ignore[reportArgumentType] - it has an index


def as_unit_bytes(bucket_mb: object) -> float:
    """Convert megabytes (2^20 bytes) to bytes; infinity is allowed.

    Raises:
        TypeError: it is not a number.
        ValueError: it is NaN or not positive.
    """
    if not is_number(bucket_mb):
        raise TypeError(f"bucket_mb is a number of megabytes, got {bucket_mb!r}")
    if math.isnan(bucket_mb) or bucket_mb <= 0:
        raise ValueError(f"bucket_mb must be positive, got {bucket_mb}")
    return bucket_mb * 2**20


def unit_term(unit_bytes: float) -> dict[str, str]:
    """Return `bucket_mb` as a term of the contract that the ranks compare."""
    return {"bucket_mb": f"{unit_bytes / 2**20:g}"}


def check_mode(call: str) -> None:
    """Raise RuntimeError in inference mode, whose tensors cannot be written outside of it."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError(f"call gradwire.{call} outside of torch.inference_mode(), whose tensors cannot be trained")


def check_scaling(scaler: object, lr: object) -> None:
    """Raise TypeError for a scaler without `get_scale`, or an `lr` that is not callable."""
    if scaler is not None and not callable(getattr(scaler, "get_scale", None)):
        raise TypeError(f"scaler takes a GradScaler, such as torch.amp.GradScaler('cuda'), got {scaler!r}")
    if lr is not None and not callable(lr):
        raise TypeError(
            "lr takes a function that returns the step's learning rate, such as "
            "lambda: optimizer.param_groups[0]['lr'], "
            f"got {lr!r}"
        )


def check_lr(exchange: Exchange, lr: object) -> None:
    """Raise ValueError if `lr` is missing and an error feedback keeps the learning rate in its memory."""
    if lr is None and any(isinstance(part, EF) and part.lr_in_memory for part in parts_of(exchange)):
        raise ValueError(
            "ef with lr_in_memory needs the step's learning rate: give attach a function that returns it, such as "
            "lr=lambda: optimizer.param_groups[0]['lr']"
        )
