"""A crew: the workers of a unit that are rehearsed, on one machine.

Of a small group every worker is rehearsed, with a memory of its own. Of a large one a single worker is, which stands
for all, unless the exchange's work depends on the rank, as DEFT's and Ok-Topk's does.

- One that stands for all receives the others' messages, if they bring other gradients. A spare worker makes them, one
  after the other, from a memory that is put back each time.
- If the work depends on the rank, every worker is rehearsed, and neighbours form a few families. A family brings one
  gradient and shares what is one value per coordinate, because all of it remember the same. So a thousand workers need
  no more memory than a few. It is put back before every step, because each of them writes into it.
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

TOGETHER, APART = 4, 8
"""The largest groups whose workers each have a memory of their own: where all bring the same gradients, and where they
do not."""

FAMILIES = 8
"""Families of a large group whose work depends on the rank, if its workers bring different gradients."""

STEPS, FEW, MANY = 5, 2, 64
"""Steps of a rehearsal; the first only warms up. Fewer of a crew that shares its memory, and of one worker who stands
for more than MANY, each of whose messages it decodes, or receives others' messages. Of a larger crew a single step is
rehearsed: its first worker warms up for the others."""

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


def rehearsed(exchange: Exchange, size: int, *, alike: bool = True) -> int:
    """How many of `size` workers are rehearsed: all, or one for all (ValueError: it does not run with so many).

    `alike` tells whether all bring the same gradients.
    """
    return size if size <= _together(alike) or by_rank(exchange, size) else 1


def _together(alike: bool) -> int:
    return TOGETHER if alike else APART


class Crew:
    """The workers of one unit.

    Args:
        unit: the first worker's, before its first step.
        exchange: whose state the unit has.
        size: how many there are. `rehearsed` says how many of them are rehearsed.
        alike: whether all bring the same gradients.

    Attributes:
        shares: whether workers share memory.
        spare: makes the messages of those for whom one worker stands, where they bring other gradients.
    """

    def __init__(self, unit: Unit, exchange: Exchange, size: int, *, alike: bool = True) -> None:
        workers = rehearsed(exchange, size, alike=alike)
        self.shares, self._d, self._size = workers > _together(alike), unit.layout.d, size
        self._in_place = self.shares and not _prime(unit, exchange)
        self._first = _alike(unit.state, self._d) if self.shares else unit.state
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
        """How many steps are rehearsed; of several the first only warms up."""
        if len(self._units) > MANY:
            return 1
        return FEW if self.shares or self.spare is not None or self._size > MANY else STEPS

    @property
    def rooms(self) -> int:
        """In how many places the workers' gradients lie."""
        return 1 if self.shares else len(self._units)

    def units(self) -> Sequence[Unit]:
        """The workers' units, ready for a step."""
        if self.shares:
            for at, (vector, before) in enumerate(self._vectors):
                vector.copy_(before)
                for now in self._now:
                    now[at].copy_(before)
            self._present = 0
            for unit in self._units:
                unit.state = _with_replicated(self._state(), unit.state, self._d)
        return self._units

    def brings(self, number: int) -> int:
        """The rank whose gradient a worker brings: its own, or its family's."""
        return number if self._families == 1 else self._family(number)

    def ready(self, number: int) -> None:
        """Before each stretch of a worker's computing: what another worker has written in place is taken back."""
        if not self._now:
            return
        family = self._family(number)
        first = number == 0 or family != self._family(number - 1)
        if first:  # what the last family's last worker has left is what all of that family have
            self._copy(self._present, back=False)
        if self._present != family or (self._in_place and not first):
            self._copy(family, back=True)
        self._present = family

    def _family(self, number: int) -> int:
        return number * self._families // len(self._units)

    def _copy(self, family: int, *, back: bool) -> None:
        """Keep the shared vectors for a family, or put them back."""
        for (vector, _), kept in zip(self._vectors, self._now[family], strict=True):
            to, source = (vector, kept) if back else (kept, vector)
            to.copy_(source)

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
