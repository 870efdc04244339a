"""Random supports for Rand-k, drawn for several steps at once in batched mode on short vectors.

A call of `kernels.support` takes as long as the rest of a short vector's round. So a batched turn of short vectors
draws the supports of a block of steps in one call, from the keys of these steps, and caches them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.layout import AnyStep, Layout, Turn

INDICES, STEPS = 1 << 16, 1 << 9
"""The largest numbers of indices and of steps that are drawn in one call."""

MASKS = 1 << 6
"""The largest number of steps for which masks are made at once; few, so that they are used while in the CPU's cache."""


def draw(turn: Turn, batch_shape: torch.Size, d: int, k: int, device: torch.device) -> Tensor:
    """Return int64[*batch_shape, k]: a support for every row."""
    steps = _block(batch_shape, k) if turn.rank == slice(None) else 1
    if steps == 1:
        return kernels.support(keys(turn, batch_shape, device), d, k)
    late = turn.step % steps
    start = turn.step - late
    return _ahead(turn.layout, turn.size, turn.seed, turn.path, start, steps, batch_shape, d, k, device)[late]


def keys(turn: Turn, batch_shape: torch.Size, device: torch.device) -> Tensor:
    """Return int64[*batch_shape]: the key that determines each row's support."""
    return turn.key(shared=False) + _rows(batch_shape, device)


def mask(turn: Turn, x: Tensor, k: int, gain: float) -> Tensor:
    """Return the supports for x f[*batch_shape, d] of a batched turn as f[*batch_shape, d]: `gain` if kept, else 0."""
    masks = Masks(x.shape, x.dtype, x.device, k, gain)
    if isinstance(turn.step, AnyStep):
        return turn.step.draw(turn, masks)
    return masks.block(turn, turn.step)[turn.step - _recent.steps.start]


class Masks(NamedTuple):
    """`Draws` of the masks of a range of steps. A named tuple, because every round makes one, which must be fast."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    k: int
    gain: float

    def __call__(self, turn: Turn, steps: range) -> list[Tensor]:
        """Return the masks of a range of steps."""
        found: list[Tensor] = []
        while len(found) < len(steps):
            step = steps[len(found)]
            block = self.block(turn, step)
            found += block[step - _recent.steps.start :][: len(steps) - len(found)]
        return found

    def block(self, turn: Turn, step: int) -> tuple[Tensor, ...]:
        """Return the masks of the block that contains a step, and cache them as the recent ones."""
        who = (turn.layout, turn.size, turn.seed, turn.path)
        if step not in _recent.steps or _recent.source != (who, self):
            batch_shape, d = self.shape[:-1], self.shape[-1]
            drawn = _block(batch_shape, self.k)
            steps = min(drawn, MASKS)
            start = step - step % steps
            supports = _ahead(*who, step - step % drawn, drawn, batch_shape, d, self.k, self.device)
            masks = torch.zeros((steps, *self.shape), dtype=self.dtype, device=self.device)
            masks.scatter_(-1, torch.stack(supports[start % drawn :][:steps]), self.gain)
            _recent.masks, _recent.steps, _recent.source = masks.unbind(), range(start, start + steps), (who, self)
        return _recent.masks


@dataclass
class _Recent:
    """The masks of a block of steps, and the turn and arguments from which they were made."""

    source: tuple[object, ...] = ()
    steps: range = range(0)
    masks: tuple[Tensor, ...] = ()


_recent = _Recent()
"""The cached block. There is only one, because a lookup among several takes longer than compressing a short vector."""


def _block(batch_shape: torch.Size, k: int) -> int:
    """Return the number of steps to draw in one call, a power of two: 1 unless the vectors are short."""
    ahead = min(STEPS, INDICES // max(1, batch_shape.numel() * k))
    return 1 << max(0, ahead.bit_length() - 1)


def _rows(batch_shape: torch.Size, device: torch.device) -> Tensor:
    """Return the rows' numbers int64[*batch_shape], which make their keys different."""
    return torch.arange(batch_shape.numel(), device=device).view(batch_shape)


@lru_cache(maxsize=64)
def _ahead(
    layout: Layout,
    size: int,
    seed: int,
    path: tuple[str, ...],
    start: int,
    steps: int,
    batch_shape: torch.Size,
    d: int,
    k: int,
    device: torch.device,
) -> tuple[Tensor, ...]:
    """Return the supports int64[*batch_shape, k] of `steps` steps of a batched turn, from each step's own keys."""
    turn = Turn(slice(None), size, start, layout, seed, path)
    first = torch.tensor(turn.keys(range(start, start + steps), shared=False), device=device)
    return kernels.support(first.view(-1, *[1] * len(batch_shape)) + _rows(batch_shape, device), d, k).unbind()
