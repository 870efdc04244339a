"""ExDyna: MiCRO whose parts of the vector move until all workers find the same number (CCGrid 2024, arXiv:2402.13781).

Indices are padded to the longest list, so a part with more large values than others costs all workers. Here the vector
is cut into blocks, and each worker's part is a range of them. If one part holds more than 1.05 times the average count
and its neighbour less than 1 / 1.05 of it, one block moves from the first to the second. All workers know all counts
and move the same blocks, so this takes no message. The messages are MiCRO's (micro.py); `inefficiency` measures their
padding.

The edge between two parts moves by one of about 1024 blocks per step, and only if both conditions hold. If all large
values lie in one of four parts, it takes hundreds of steps to spread them.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gradwire.exchange.micro import partition
from gradwire.exchange.protocol import State, replicated
from gradwire.exchange.threshold import Control, Span, Start, rank_of, search
from gradwire.layout import Layout, Turn
from gradwire.registry import part
from gradwire.vector import Sent, widen

BLOCKS = 1024
LANES = 32
"""A block is a multiple of this, so that a GPU's reads coalesce."""


@part("exdyna", "exchange", example="ef(exdyna(density=0.01))")
@dataclass(frozen=True)
class ExDyna:
    """MiCRO with parts that adapt, so that all workers select about the same number.

    Args:
        density: k / d, the fraction of values to send; with steady gradients the fraction that is sent stays between
            0.909 and 1.1 times this.
        start: the first threshold: "sample", for any gradient, or "formula", the authors' 1 / (2 sqrt(k))
            (threshold.py).
        official: reproduce an error in the authors' code: for 0.909 < k' / k <= 1 the threshold rises instead of
            falling.
    """

    density: float
    start: Start = "sample"
    official: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", self._control.density)

    @property
    def _control(self) -> Control:
        return Control(self.density, self.start, self.official)

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        """Make the threshold, 0 [1] for none yet, and each block's part number, zeros [blocks]; both are replicated."""
        number, _ = blocks(layout.d)
        return {
            "threshold": torch.zeros(1, dtype=dtype, device=device),
            "owner": torch.zeros(number, dtype=dtype, device=device),
        }

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Use two collectives; one more if the threshold is sampled, and one if a part has far more than k / n."""
        rank, d = rank_of(turn, "exdyna"), x.shape[-1]
        owner = replicated(state, "owner", blocks(d)[:1])
        parts = _read(owner, turn.size)
        sent, counts = await search(self._control, widen(x), spans(parts, d), state, rank, turn.step)
        owners = [part for part, size in enumerate(move(parts, counts, d)) for _ in range(size)]
        owner.copy_(torch.tensor(owners, dtype=owner.dtype))
        return sent

    def omega(self, d: int) -> float | None:
        """Return None: it is biased."""
        return None

    def delta(self, d: int) -> float | None:
        """Return 0: a projection, but the values that other workers select need not be large here."""
        return 0.0


def blocks(d: int) -> tuple[int, int]:
    """Return the number of blocks in [0, d), and their size. The remainder at the end belongs to the last part.

    The authors' code makes 1024 blocks of d / 1024 elements, rounded down to a multiple of 32. The remainder is up to
    32767 elements, which below d = 2^20 may be more than d / 32. For such d the size is rounded up, and blocks are
    fewer.
    """
    if d >= BLOCKS * LANES**2:
        return BLOCKS, d // BLOCKS // LANES * LANES
    size = max(1, -(-d // (BLOCKS * LANES))) * LANES
    return d // size, size


def spans(parts: Sequence[int], d: int) -> list[Span]:
    """Convert n parts, as numbers of blocks, to spans (start, end) that tile [0, d)."""
    _, size = blocks(d)
    edges = [size * number for number in itertools.accumulate(parts, initial=0)]
    return list(zip(edges[:-1], [*edges[1:-1], d], strict=True))


def move(parts: Sequence[int], counts: Sequence[int], d: int) -> list[int]:
    """Return the parts of the next step, given n parts as numbers of blocks and the number of values found in each.

    For every pair of neighbours in order, one block moves from a part that found too many to one that found too few,
    unless less than a quarter of an even split would be left. The pair's counts are corrected immediately.
    """
    parts, found, (number, size) = list(parts), list(counts), blocks(d)
    total, n = sum(found), len(parts)
    for p in range(n - 1 if total else 0):
        much, little = (p, p + 1) if found[p] > found[p + 1] else (p + 1, p)
        if found[much] * n > 1.05 * total and found[little] * n * 1.05 < total and parts[much] - 1 >= number / (4 * n):
            parts[much] -= 1
            parts[little] += 1
            found[much] -= int(size * total / d)
            found[little] += int(size * total / d)
    return parts


def inefficiency(counts: Sequence[int]) -> float:
    """Return the padding per index: n max k_p / k' - 1; 0 if all counts are equal, at most n - 1."""
    return len(counts) * max(counts) / sum(counts) - 1 if any(counts) else 0.0


def _read(owner: Tensor, n: int) -> list[int]:
    """Return the blocks in each of n parts; an even split if the state has none or is of another number of workers."""
    held = Counter(cast(list[float], owner.tolist()))
    if held.keys() <= set(range(n)) and max(held, default=-1) == min(n, len(owner)) - 1:
        return [held[part] for part in range(n)]
    return [end - start for start, end in partition(len(owner), n)]
