"""A crew: the workers whose exchange of one unit is rehearsed, on one machine.

In a small group every worker is rehearsed, with its own state. In a large group a single worker stands for all, unless
the exchange's work depends on the rank, as in DEFT and Ok-Topk.

- A worker that stands for all receives the others' messages, if their gradients differ. A spare worker computes these
  messages one after the other; its state is restored each time.
- If the work depends on the rank, every worker is rehearsed, and consecutive ranks form a few families. A family has
  one gradient, so its workers' vectors [d] (residuals, shifts) are equal and are stored once. A thousand workers then
  need no more memory than a few. The vectors are restored before every step, because every worker writes into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from gradwire.engine import Unit
from gradwire.exchange import Exchange, State
from gradwire.exchange.protocol import Accumulates, clone, flatten, visible
from gradwire.exchange.undo import keep_, logged
from gradwire.layout import Layout, Turn
from gradwire.transport.batched import batched

ALIKE_LIMIT, UNLIKE_LIMIT = 4, 8
"""The largest groups in which every worker has its own state: with equal gradients, and with different ones."""

FAMILIES = 8
"""Number of families of a large group whose work depends on the rank, if the workers' gradients differ."""

STEPS, FEW, MANY = 5, 2, 64
"""STEPS: steps of a rehearsal; the first is a warm-up. FEW: the same, if rehearsing costs more: workers share their
vectors, or one worker stands for more than MANY (and decodes as many messages) or receives the others' messages. More
than MANY rehearsed workers make a single step; the first of them warms up for the others."""

TINY = Layout(["x"], [(64,)])


def by_rank(exchange: Exchange, size: int) -> bool:
    """Whether a worker's work depends on its rank: such an exchange refuses to run as one batch of all workers.

    Raises:
        ValueError: the exchange does not run with `size` workers at all.
    """
    turn = Turn(slice(None), size, 0, TINY, params=lambda: torch.zeros(TINY.d), lr=1.0)
    try:
        batched(exchange(torch.ones(size, TINY.d), exchange.init(TINY, batch_shape=(size,)), turn), size)
    except ValueError as refusal:
        if "batched" not in str(refusal):
            raise
        return True
    return False


def rehearsed(exchange: Exchange, size: int, *, alike: bool = True) -> int:
    """How many of `size` workers are rehearsed: all of them, or one that stands for all.

    Args:
        alike: whether all workers have the same gradients.

    Raises:
        ValueError: the exchange does not run with `size` workers.
    """
    return size if size <= _own_memory_limit(alike) or by_rank(exchange, size) else 1


def _own_memory_limit(alike: bool) -> int:
    return ALIKE_LIMIT if alike else UNLIKE_LIMIT


class Crew:
    """The rehearsed workers of one unit.

    Args:
        unit: the first worker's unit, before its first step.
        exchange: the exchange that made the unit's state.
        size: the number of workers. `rehearsed` tells how many of them are rehearsed.
        alike: whether all workers have the same gradients.

    Attributes:
        shares: whether workers share the vectors [d] of their states.
        spare: a unit that computes the messages of the workers for which one stands; None if gradients are alike.
    """

    def __init__(self, unit: Unit, exchange: Exchange, size: int, *, alike: bool = True) -> None:
        workers = rehearsed(exchange, size, alike=alike)
        self.shares, self._d, self._size = workers > _own_memory_limit(alike), unit.layout.d, size
        self._in_place = self.shares and not _prime(unit, exchange)
        self._first = _sharing_vectors(unit.state, self._d) if self.shares else unit.state
        shared = [*_vectors(unit.state, self._d), unit.buffer] if self.shares else []
        self._vectors = [(vector, vector.clone()) for vector in shared]
        self._families = FAMILIES if self.shares and not alike else 1
        kept = self._families if self._in_place or self._families > 1 else 0
        self._now = [[before.clone() for _, before in self._vectors] for _ in range(kept)]
        self._present = 0
        others = (_another(unit, self._state(), shares=self.shares) for _ in range(1, workers))
        self._units = [unit, *others]
        stands = workers < size and not alike
        self.spare = _another(unit, self._state(), shares=False) if stands else None

    @property
    def steps(self) -> int:
        """How many steps are rehearsed; the first of several is a warm-up."""
        if len(self._units) > MANY:
            return 1
        return FEW if self.shares or self.spare is not None or self._size > MANY else STEPS

    @property
    def buffers(self) -> int:
        """How many gradient buffers the workers need."""
        return 1 if self.shares else len(self._units)

    def units(self) -> Sequence[Unit]:
        """Return the workers' units, ready for a step; shared vectors are restored first."""
        if self.shares:
            for at, (vector, before) in enumerate(self._vectors):
                vector.copy_(before)
                for now in self._now:
                    now[at].copy_(before)
            self._present = 0
            for unit in self._units:
                unit.state = _with_replicated(self._state(), unit.state, self._d)
        return self._units

    def gradient_rank(self, number: int) -> int:
        """The rank whose gradient a worker has: its own, or its family's."""
        return number if self._families == 1 else self._family(number)

    def ready(self, number: int) -> None:
        """Prepare for a worker's next stretch of computing: undo what other workers wrote into shared vectors."""
        if not self._now:
            return
        family = self._family(number)
        first = number == 0 or family != self._family(number - 1)
        if first:  # the last worker of the family before left the values that its whole family has
            self._copy(self._present, back=False)
        if self._present != family or (self._in_place and not first):
            self._copy(family, back=True)
        self._present = family

    def _family(self, number: int) -> int:
        return number * self._families // len(self._units)

    def _copy(self, family: int, *, back: bool) -> None:
        """Save the shared vectors of a family, or restore them."""
        for (vector, _), kept in zip(self._vectors, self._now[family], strict=True):
            to, source = (vector, kept) if back else (kept, vector)
            to.copy_(source)

    def _state(self) -> State:
        """A worker's state before its first step."""
        return _sharing_vectors(self._first, self._d) if self.shares else clone(visible(self._first))


def _another(unit: Unit, state: State, *, shares: bool) -> Unit:
    """Make another worker's unit of the same tensors, with a workspace of its own unless workers share it."""
    workspace = unit.workspace if shares or unit.workspace is None else unit.workspace.another()
    return replace(unit, state=state, workspace=workspace, missing=set(), gradients={}, _views={})


def _prime(unit: Unit, exchange: Exchange) -> bool:
    """Allocate the buffers that keep the state from before a step; return whether x is accumulated in them.

    If so, all workers of a family write the same values there, in any order.
    """
    turn = Turn(0, 1, 0, unit.layout, params=unit.params, lr=1.0)
    if unit.fused and isinstance(exchange, Accumulates):
        zeros = torch.zeros(unit.layout.d, dtype=unit.dtype, device=unit.device)
        if exchange.accumulate([zeros], unit.state, turn) is not None:
            exchange.rollback(unit.state)
            return True
    keep_(unit.state, logged(exchange))
    return False


def _sharing_vectors(state: State, d: int) -> State:
    """Copy a nested state: new dictionaries that share the vectors [d], and copies of all other tensors."""
    return {
        name: _sharing_vectors(part, d) if isinstance(part, dict) else _shared_or_copy(part, d)
        for name, part in state.items()
    }


def _shared_or_copy(part: Tensor, d: int) -> Tensor:
    return part if part.shape == (d,) else part.clone()


def _vectors(state: State, d: int) -> list[Tensor]:
    nested = [_vectors(part, d) if isinstance(part, dict) else [part] for part in state.values()]
    return [part for parts in nested for part in parts if part.shape == (d,)]


def _with_replicated(fresh: State, worn: State, d: int) -> State:
    """Return a fresh state with the replicated tensors, such as a threshold, of a used one."""
    for _, key, name, part in flatten(worn):
        *path, _ = name.split(".")
        holder = fresh
        for each in path:
            holder = cast(State, holder[each])
        if part.shape != (d,):
            holder[key] = part
    return fresh
