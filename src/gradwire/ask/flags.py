"""Flags and tags that travel with a message: is something wrong anywhere, and what is the message about?

A sum carries them as one more number, a gathered message as one more byte (docs/formats.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

APART = (
    "the ranks are at different steps, or at different units of one: every rank must run the same backward passes "
    "in the same order"
)
"""What is wrong where tags differ."""


SUMMED = 1 << 16
"""Bytes of a broadcast up to which it carries a flag."""

EXACT: dict[torch.dtype, int] = {torch.float16: 11, torch.bfloat16: 8}
"""Bits of the whole numbers that a dtype holds exactly, where that is less than float32's 24."""


def marked(tag: int, size: int, bits: int = 24) -> int:
    """What is added to a flag, 0 or 1, that is summed over `size` workers: the tag, above all sums of flags.

    The sum must be exact, in float32 by default, so from 256 workers on only the tag's lowest bits are told.
    """
    weight = 1 << size.bit_length()
    return weight * (tag % min(128, max(1, (1 << bits) // (weight * size + 1))))


def unmarked(total: Tensor, mark: int, size: int) -> bool:
    """Whether any flag is set in a sum f[1] of marked ones (ValueError: other workers have another tag)."""
    flags = float(total.item()) - mark * size
    if not 0 <= flags <= size:
        raise ValueError(APART)
    return flags > 0


def flag_of(octets: Tensor, tag: int) -> bool:
    """Whether any flag is set among bytes u8[n] (ValueError: other workers have another tag)."""
    if bool((octets >> 1 != tag).any()):
        raise ValueError(APART)
    return bool((octets & 1).any())


def without_last(rows: Tensor) -> Tensor:
    """u8[n, m] without the last column. torch takes a single row for contiguous, whatever its stride is."""
    return rows[:, :-1].reshape(-1).view(len(rows), -1) if rows.shape[1] > 1 else rows[:, :0]
