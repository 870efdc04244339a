"""The integrations' common part for `gradwire.local`: DDP must not average, and every rank's optimizer is saved.

Frameworks wrap the model in DDP. So DDP gets a process group of this rank alone: it averages over one rank, sends
neither its map of used parameters nor buffers, and to `gradwire.local` the model is an island of one rank.

Frameworks save rank 0's model and optimizer. So a round ends before every save, and all ranks hold the model that is
saved. Every rank's own optimizer is saved with the state of the rounds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import torch.distributed as dist
from torch.optim.optimizer import Optimizer

from gradwire.doors import Local
from gradwire.transport.process import Process

Starts: TypeAlias = Callable[[Any, list[Optimizer]], Local]
"""`gradwire.local` or a partial of it, such as `functools.partial(gradwire.local, every=20)`."""

OPTIMIZERS = "optimizers"


def alone() -> dist.ProcessGroup:
    """Make a process group of this rank alone. Every rank calls it."""
    group = dist.new_group([dist.get_rank()], use_local_synchronization=True)
    if not isinstance(group, dist.ProcessGroup):
        raise RuntimeError(f"rank {dist.get_rank()} is no member of a group of itself")
    return group


class LocalState:
    """Local training and its optimizers, as one state for `gradwire.save` and `gradwire.load`.

    With another number of workers, all optimizers continue from rank 0's state.
    """

    def __init__(self, local: Local, optimizers: Sequence[Optimizer]) -> None:
        self.local, self.optimizers = local, list(optimizers)

    @property
    def process(self) -> Process:
        """The transport, with this rank and the number of ranks."""
        return self.local.process

    @property
    def part(self) -> tuple[int, int]:
        """(index, count): these ranks exchange part `index` of `count` of the model."""
        return self.local.part

    def state_dict(self, *, copy: bool = True) -> dict[str, Any]:
        """Return the state of the rounds, copied if `copy`, and the optimizers' states, which are not copied."""
        return self.local.state_dict(copy=copy) | {
            OPTIMIZERS: [optimizer.state_dict() for optimizer in self.optimizers]
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from a `state_dict` (ValueError: it does not fit; then nothing has changed)."""
        states = cast("list[dict[str, Any]]", saved.get(OPTIMIZERS))
        if not isinstance(states, list) or len(states) != len(self.optimizers):
            raise ValueError(f"the checkpoint does not hold the states of {len(self.optimizers)} optimizers")
        self.local.load_state_dict({name: value for name, value in saved.items() if name != OPTIMIZERS})
        for optimizer, state in zip(self.optimizers, copy.deepcopy(states), strict=True):
            optimizer.load_state_dict(state)

    def anchor_here(self) -> None:
        """Begin a round at the present model, after other code has written it equally on all ranks."""
        for unit in self.local.engine.all_units():
            unit.start()
