"""Convert positions in the concatenated layers of a bin to indices of the flat vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Span: TypeAlias = tuple[int, int]
"""Start and end of a layer in the flat vector."""


def length(spans: Sequence[Span]) -> int:
    """Return the number of elements of all spans together."""
    return sum(end - start for start, end in spans)


def globalise(positions: Tensor, spans: Sequence[Span]) -> Tensor:
    """Positions int64[m] in the concatenated spans -> indices int64[m] of the flat vector."""
    if not spans:
        return positions
    edges = torch.tensor([(start, end - start) for start, end in spans], device=positions.device)
    ends = edges[:, 1].cumsum(0)
    layer = torch.searchsorted(ends, positions, right=True)
    return positions + (edges[:, 0] - ends + edges[:, 1])[layer]
