"""A vector put together from pieces, and what is noticed on the way: nobody has to read it again to find out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import compiled, reference
from gradwire.kernels.compiled import Numbers
from gradwire.kernels.copies import copy_


@dataclass
class Seen:
    """What is known of x f[d].

    Attributes:
        x: the vector; of any other nothing is known.
        finite: whether all of it is finite; None if nobody has looked, as on a GPU, where that would be to wait for it.
        keys: i64[m], of the m elements that reach some border, in their order (see cpu/selection.py).
        cleared: whether zeros were left where the pieces were.
        wanted: how many of the largest elements somebody has asked for, 0 if nobody has: of the next vector most likely
            as many.
    """

    x: Tensor
    finite: bool | None = None
    keys: Numbers = field(default_factory=lambda: np.empty(0, np.int64))
    cleared: bool = False
    wanted: int = 0

    def topk(self, x: Tensor, k: int) -> Tensor | None:
        """What `kernels.topk` finds in x, if that is the vector and its k largest elements are known."""
        if x is not self.x:
            return None
        self.wanted = k
        return compiled.among(self.keys, k) if 0 < k <= len(self.keys) else None


def accumulate(x: Tensor, memory: Tensor | None, pieces: Sequence[Tensor], scale: float = 1.0, wanted: int = 0) -> Seen:
    """Put x f[d] together: pieces f[...] end to end, divided by scale, plus a memory f[d] if there is one.

    With a memory it is one pass, in the host's memory, and leaves zeros where the pieces were. If so many of the
    largest elements are `wanted`, a sample of x sets a border that they reach, most likely, and what does is noted.

    Raises:
        ValueError: the pieces do not make up x; nothing has been written.
    """
    if (total := sum(piece.numel() for piece in pieces)) != len(x):
        raise ValueError(f"pieces of {total} elements do not make a vector of {len(x)}")
    flat = [piece.reshape(-1).to(x.dtype) for piece in pieces]
    if scale != 1.0:
        flat = [piece / scale for piece in flat]
    if memory is None:
        return _copied(x, flat)
    on_host = x.device.type == "cpu"
    in_place = memory.dtype == x.dtype and compiled.serve(x)
    if in_place:
        seen = Seen(x, *compiled.accumulate(x, memory, flat, wanted), cleared=True)
    else:
        torch.cat(flat, out=x).add_(memory)
        seen = Seen(x, bool(reference.finite(x)) if on_host else None, cleared=on_host)
    for piece, taken in zip(pieces, flat, strict=True):
        if on_host and not (in_place and taken.data_ptr() == piece.data_ptr()):
            piece.zero_()
    return seen


def _copied(x: Tensor, flat: list[Tensor]) -> Seen:
    """The pieces and nothing else."""
    if x.device.type != "cpu":
        torch.cat(flat, out=x)
        return Seen(x)
    rooms: Sequence[Tensor] = torch.split(x, [len(piece) for piece in flat])
    sound = [copy_(room, piece) for room, piece in zip(rooms, flat, strict=True)]
    return Seen(x, all(sound))
