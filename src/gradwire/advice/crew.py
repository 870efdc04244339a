"""A crew: the workers of a unit that are rehearsed, on one machine.

Of a small group every worker is rehearsed, with a memory of its own. Of a large one a single worker is, which stands
for all, unless the exchange's work depends on the rank, as DEFT's and Ok-Topk's does. Then every worker is rehearsed,
and they share what is one value per coordinate: all bring the same gradients, so all remember the same, and a thousand
workers need no more memory than one. It is put back before every step, because each of them writes into it.
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

TOGETHER = 4
"""The largest group whose workers each have a memory of their own."""

STEPS, FEW, MANY = 5, 2, 64
"""Steps of a rehearsal; the first only warms up; fewer of a crew that shares its memory, and of one worker who
stands for more than so many, each of whose messages it decodes. Of a larger crew a single step is rehearsed: its first
worker warms up for the others."""

TINY = Layout(["x"], [(64,)])


def by_rank(exchange: Exchange, size: int) -> bool:
    """Whether a worker's work depends on its rank: such an exchange refuses to run as one batch of all workers.

    Raises:
        ValueError: it does not run with so many workers at all.
    """
    turn = Turn(slice(None), size, 0, TINY, params=lambda: torch.zeros(TINY.d), lr=1.0)
    try:
        batched(exchange(torch.ones(size, TINY.d), exchange.init(TINY, batch_shape=(size,)), turn), size)
    except ValueError as refusal:
        if "batched" not in str(refusal):
            raise
        return True
    return False


def rehearsed(exchange: Exchange, size: int) -> int:
    """How many of `size` workers are rehearsed: all, or one for all (ValueError: it does not run with so many)."""
    return size if size <= TOGETHER or by_rank(exchange, size) else 1


class Crew:
    """The workers of one unit.

    Args:
        unit: the first worker's, before its first step.
        exchange: whose state the unit has.
        size: how many there are. `rehearsed` says how many of them are rehearsed.
    """

    def __init__(self, unit: Unit, exchange: Exchange, size: int) -> None:
        workers = rehearsed(exchange, size)
        self.shares, self._d, self._size = workers > TOGETHER, unit.layout.d, size
        self._in_place = self.shares and not _prime(unit, exchange)
        self._first = _alike(unit.state, self._d) if self.shares else unit.state
        self._vectors = [(vector, vector.clone()) for vector in _vectors(unit.state, self._d)] if self.shares else []
        self._now = [before.clone() for _, before in self._vectors] if self._in_place else []
        others = (_another(unit, self._state(), shares=self.shares) for _ in range(1, workers))
        self._units = [unit, *others]

    @property
    def steps(self) -> int:
        """How many steps are rehearsed; of several the first only warms up."""
        return 1 if len(self._units) > MANY else FEW if self.shares or self._size > MANY else STEPS

    @property
    def rooms(self) -> int:
        """In how many places the workers' gradients lie."""
        return 1 if self.shares else len(self._units)

    def units(self) -> Sequence[Unit]:
        """The workers' units, ready for a step."""
        if self.shares:
            for vector, before in self._vectors:
                vector.copy_(before)
            for unit in self._units:
                unit.state = _with_replicated(self._state(), unit.state, self._d)
        return self._units

    def ready(self, number: int) -> None:
        """Before each stretch of a worker's computing: what another worker has written in place is taken back."""
        if self._in_place:
            for at, (vector, _) in enumerate(self._vectors):
                if number == 0:
                    self._now[at].copy_(vector)
                else:
                    vector.copy_(self._now[at])

    def _state(self) -> State:
        """A worker's state before its first step."""
        return _alike(self._first, self._d) if self.shares else clone(visible(self._first))


def _another(unit: Unit, state: State, *, shares: bool) -> Unit:
    """Another worker's unit of the same tensors, with memory of its own unless they share it."""
    workspace = unit.workspace if shares or unit.workspace is None else unit.workspace.another()
    return replace(unit, state=state, workspace=workspace, missing=set(), gradients={}, _views={})


def _prime(unit: Unit, exchange: Exchange) -> bool:
    """Make the second buffers, in which a state before the step is kept, once for all; whether x is accumulated there.

    Then every worker writes the same into the second buffer, in whatever order they come.
    """
    turn = Turn(0, 1, 0, unit.layout, params=unit.params, lr=1.0)
    if unit.fused and isinstance(exchange, Accumulates):
        zeros = torch.zeros(unit.layout.d, dtype=unit.dtype, device=unit.device)
        if exchange.accumulate([zeros], unit.state, turn) is not None:
            exchange.rollback(unit.state)
            return True
    keep_(unit.state, logged(exchange))
    return False


def _alike(state: State, d: int) -> State:
    """The same vectors [d] in new dictionaries, and copies of everything else."""
    return {name: _alike(part, d) if isinstance(part, dict) else _mine(part, d) for name, part in state.items()}


def _mine(part: Tensor, d: int) -> Tensor:
    return part if part.shape == (d,) else part.clone()


def _vectors(state: State, d: int) -> list[Tensor]:
    nested = [_vectors(part, d) if isinstance(part, dict) else [part] for part in state.values()]
    return [part for parts in nested for part in parts if part.shape == (d,)]


def _with_replicated(fresh: State, worn: State, d: int) -> State:
    """A fresh state with the replicated tensors of the last step, such as a threshold."""
    for _, key, name, part in flatten(worn):
        *path, _ = name.split(".")
        holder = fresh
        for each in path:
            holder = cast(State, holder[each])
        if part.shape != (d,):
            holder[key] = part
    return fresh
