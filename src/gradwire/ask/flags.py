"""Flags and tags that travel with a message. A flag reports that a value is not finite; a tag, the unit and step.

A sum carries them as one more number, a gathered message as one more byte (docs/formats.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

OUT_OF_STEP = (
    "the ranks are at different steps, or at different units of one: every rank must run the same backward passes "
    "in the same order"
)
"""The error message for tags that differ."""


MAX_FLAGGED_BROADCAST = 1 << 16
"""Largest message in bytes with which a broadcast carries a flag."""

EXACT_BITS: dict[torch.dtype, int] = {torch.float16: 11, torch.bfloat16: 8}
"""Bits of the integers that a dtype represents exactly, if less than float32's 24."""


def tag_offset(tag: int, size: int, bits: int = 24) -> int:
    """Return the tag as a number that is added to a flag (0 or 1) before flags are summed over `size` workers.

    It is a multiple of a power of two above any sum of flags. The sum must be exact in `bits` bits (float32's by
    default), so from 256 workers on only the tag's lowest bits are included.
    """
    weight = 1 << size.bit_length()
    return weight * (tag % min(128, max(1, (1 << bits) // (weight * size + 1))))


def any_flag_in_sum(total: Tensor, offset: int, size: int) -> bool:
    """Whether any flag is set in a sum f[1] of flags with this offset (ValueError: a worker has another tag)."""
    flags = float(total.item()) - offset * size
    if not 0 <= flags <= size:
        raise ValueError(OUT_OF_STEP)
    return flags > 0


def any_flag_in_bytes(marks: Tensor, tag: int) -> bool:
    """Whether any flag is set in bytes u8[n] of flag and tag (ValueError: a worker has another tag)."""
    if bool((marks >> 1 != tag).any()):
        raise ValueError(OUT_OF_STEP)
    return bool((marks & 1).any())


def drop_last_column(rows: Tensor) -> Tensor:
    """Return u8[n, m] without the last column, with strides (m - 1, 1).

    `contiguous` would not do: torch calls a single row contiguous whatever its stride is.
    """
    return rows[:, :-1].reshape(-1).view(len(rows), -1) if rows.shape[1] > 1 else rows[:, :0]
