"""How states change when workers leave or join between two steps.

Methods rely on invariants of the mean over the workers, and a change of workers must preserve them:

| state                                | workers that stay    | workers that join | invariant                      |
|--------------------------------------|----------------------|-------------------|--------------------------------|
| residuals: EF's error, DGC's u and v | times after / before | 0                 | (1/n) sum e                    |
| shifts: DIANA's h, MARINA's estimate | the mean shift       | the mean shift    | the mean shift                 |
| averages: Momentum's v               | unchanged            | a peer's          | v is an average from the start |
| replicated: a threshold, mean_h      | the newest worker's  | the newest's      | equal on all workers           |

The residual of a worker that left is lost: e_i / n of the mean residual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gradwire.ask import AllReduce, Broadcast
from gradwire.exchange.protocol import Exchange, State, flatten, tensor
from gradwire.layout import Layout

_DIMENSIONS = 7
"""The largest number of dimensions of a replicated tensor."""


@dataclass(frozen=True)
class Change:
    """A change of workers between two steps, as one of the present workers sees it.

    Args:
        layout: the layout of the state.
        before: number of workers before.
        stayed: number of those that are still present.
        after: number of workers now.
        source: rank, among the present workers, of the one whose state is the newest.
        joined: whether this worker was not present before.
        device: the device of the tensors that are sent.
    """

    layout: Layout
    before: int
    stayed: int
    after: int
    source: int
    joined: bool
    device: torch.device


@runtime_checkable
class Changes(Protocol):
    """An exchange that adapts its state to a change of workers."""

    async def change(self, state: State, change: Change) -> None:
        """Adapt the state to the present workers, in place. All of them run it."""
        ...


async def change_(exchange: Exchange, state: State, change: Change) -> None:
    """Adapt an exchange's state to the present workers, in place.

    For an exchange without `change`, replicated state becomes the newest worker's, and every tensor [d] becomes its
    mean over the workers that stayed.
    """
    if isinstance(exchange, Changes):
        await exchange.change(state, change)
        return
    for nest, name, _, values in flatten(state):
        if values.shape == (change.layout.d,):
            total = await AllReduce(torch.zeros_like(values) if change.joined else values)
            values.copy_(total).div_(change.stayed)
        else:
            await replace_(nest, name, change)


def preserve_mean_(x: Tensor, change: Change) -> None:
    """Preserve (1/n) sum x over the workers for a residual x f[..., d], in place and without a message."""
    if change.joined:
        x.zero_()
    elif change.after != change.before:
        x.mul_(change.after / change.before)


async def replace_(state: State, name: str, change: Change) -> None:
    """Replace a tensor of the state by the newest worker's, whose shape may differ."""
    mine = tensor(state, name)
    there = mine.to(change.device)
    words = torch.tensor([mine.ndim, *mine.shape, *[0] * (_DIMENSIONS - mine.ndim)], device=change.device)
    ndim, *sizes = [int(size) for size in await Broadcast(words, change.source)]
    shape = tuple(sizes[:ndim])
    received = await Broadcast(there if mine.shape == shape else there.new_zeros(shape), change.source)
    if mine.shape == shape:
        mine.copy_(received)
    else:
        state[name] = received.to(mine.device)
