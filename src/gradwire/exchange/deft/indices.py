"""From positions in the layers of a bin, laid end to end, to indices of the flat vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Span: TypeAlias = tuple[int, int]
"""Start and end of a layer in the flat vector."""


def length(spans: Sequence[Span]) -> int:
    """Elements of all spans together."""
    return sum(end - start for start, end in spans)


def globalise(positions: Tensor, spans: Sequence[Span]) -> Tensor:
    """From positions in spans laid end to end, int64[m], to indices of the flat vector, int64[m]."""
    if not spans:
        return positions
    edges = torch.tensor([(start, end - start) for start, end in spans], device=positions.device)
    ends = edges[:, 1].cumsum(0)
    layer = torch.searchsorted(ends, positions, right=True)
    return positions + (edges[:, 0] - ends + edges[:, 1])[layer]
