"""Workers leave or join between two steps: what becomes of what the others remember.

Memories keep a promise to the mean over the workers, and that is what a change of workers must leave as it was:

| state                                | of those who stay    | of those who join | so that                        |
|--------------------------------------|----------------------|-------------------|--------------------------------|
| owed: EF's error, DGC's u and v      | times after / before | 0                 | (1/n) sum e is the same        |
| shifts: DIANA's h, MARINA's estimate | the mean shift       | the mean shift    | the mean shift is the same     |
| averages: Momentum's v               | the same             | a peer's          | it is an average at once       |
| replicated: a threshold, mean_h      | the newest worker's  | the same          | all workers know it alike      |

What a worker still owed that is gone is lost with it: e_i / n of the owed mean.
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
"""As many as a replicated tensor may have."""


@dataclass(frozen=True)
class Change:
    """What a worker may know when other workers are there than at the step before.

    Args:
        layout: whose state it is.
        before: workers there were.
        stayed: how many of them are still there.
        after: workers there are.
        source: rank, among those who are there, of the worker whose state is the newest.
        joined: whether this worker was not there.
        device: where tensors are that travel.
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
    """An exchange with per-worker state that knows how it goes on with other workers."""

    async def change(self, state: State, change: Change) -> None:
        """Make the state, in place, one of the workers that are there now. All workers run it."""
        ...


async def change_(exchange: Exchange, state: State, change: Change) -> None:
    """Make an exchange's state one of the workers that are there now, in place.

    An exchange that does not say how, having no `change`, gets its replicated state from the newest worker, and of
    every tensor [d] the mean over the workers that stayed.
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


def owe_(x: Tensor, change: Change) -> None:
    """Keep (1/n) sum x over the workers, in place and without a word: x is what a worker owes to the mean."""
    if change.joined:
        x.zero_()
    elif change.after != change.before:
        x.mul_(change.after / change.before)


async def replace_(state: State, name: str, change: Change) -> None:
    """Replace a tensor by the newest worker's, of whatever shape that is."""
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
