"""What doors take beside a model and an exchange: refused before anything is opened, in the same words everywhere."""

from __future__ import annotations

import math
import operator

from gradwire.checks import is_number
from gradwire.exchange import Exchange
from gradwire.exchange.parts import parts_of
from gradwire.memory.ef import EF


def as_seed(seed: object) -> int:
    """Return a whole number (TypeError)."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TypeError(f"a seed is a whole number, got {seed!r}")
    return operator.index(seed)  # pyright: ignore[reportArgumentType] - it has an index


def as_unit_bytes(bucket_mb: object) -> float:
    """Return megabytes (2^20 bytes) in bytes; infinitely many will do (TypeError, ValueError)."""
    if not is_number(bucket_mb):
        raise TypeError(f"bucket_mb is a number of megabytes, got {bucket_mb!r}")
    if math.isnan(bucket_mb) or bucket_mb <= 0:
        raise ValueError(f"bucket_mb must be positive, got {bucket_mb}")
    return bucket_mb * 2**20


def unit_term(unit_bytes: float) -> dict[str, str]:
    """What ranks must agree about of it, in the user's words."""
    return {"bucket_mb": f"{unit_bytes / 2**20:g}"}


def check_scaling(scaler: object, lr: object) -> None:
    """Refuse a scaler without a scale, and a learning rate that cannot be asked for (TypeError)."""
    if scaler is not None and not callable(getattr(scaler, "get_scale", None)):
        raise TypeError(f"scaler takes a GradScaler, such as torch.amp.GradScaler('cuda'), got {scaler!r}")
    if lr is not None and not callable(lr):
        raise TypeError(
            "lr takes a function that tells the step's learning rate, such as lambda: optimizer.param_groups[0]['lr'], "
            f"got {lr!r}"
        )


def check_lr(exchange: Exchange, lr: object) -> None:
    """Refuse a memory that keeps the learning rate, and is told none (ValueError)."""
    if lr is None and any(isinstance(part, EF) and part.lr_in_memory for part in parts_of(exchange)):
        raise ValueError(
            "ef with lr_in_memory needs the step's learning rate: give attach a function that tells it, such as "
            "lr=lambda: optimizer.param_groups[0]['lr']"
        )
