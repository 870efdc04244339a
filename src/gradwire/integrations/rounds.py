"""What all integrations share about `gradwire.local`: DDP leaves gradients alone, and optimizers are saved beside.

A framework wraps the model in DDP. So DDP gets a group of this rank alone: it averages over one rank, its map of used
parameters and its buffers stay here, and the model is an island of one rank to `gradwire.local`.

A framework saves rank 0's model and optimizer. So a round ends before every save, and all ranks hold the model that is
saved; and the optimizers, which stay every rank's own, are saved with the rounds' state.
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
"""`gradwire.local`, or `functools.partial(gradwire.local, every=20)`: what takes a model and its optimizers."""

OPTIMIZERS = "optimizers"


def alone() -> dist.ProcessGroup:
    """Make a group of this rank alone. Every rank calls it."""
    group = dist.new_group([dist.get_rank()], use_local_synchronization=True)
    if not isinstance(group, dist.ProcessGroup):
        raise RuntimeError(f"rank {dist.get_rank()} is no member of a group of itself")
    return group


class LocalState:
    """Local steps and the optimizers that take them, as one thing that `gradwire.save` and `gradwire.load` take.

    With another number of workers all optimizers go on from rank 0's state.
    """

    def __init__(self, local: Local, optimizers: Sequence[Optimizer]) -> None:
        self.local, self.optimizers = local, list(optimizers)

    @property
    def process(self) -> Process:
        """This rank among those that exchange."""
        return self.local.process

    @property
    def part(self) -> tuple[int, int]:
        """Which part of the model these ranks exchange, and of how many."""
        return self.local.part

    def state_dict(self, *, copy: bool = True) -> dict[str, Any]:
        """Return the rounds' state, copied unless told otherwise, and the optimizers', which is not."""
        return self.local.state_dict(copy=copy) | {
            OPTIMIZERS: [optimizer.state_dict() for optimizer in self.optimizers]
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken. Refuses what does not fit (ValueError), and then has changed nothing."""
        states = cast("list[dict[str, Any]]", saved.get(OPTIMIZERS))
        if not isinstance(states, list) or len(states) != len(self.optimizers):
            raise ValueError(f"the checkpoint does not hold the states of {len(self.optimizers)} optimizers")
        self.local.load_state_dict({name: value for name, value in saved.items() if name != OPTIMIZERS})
        for optimizer, state in zip(self.optimizers, copy.deepcopy(states), strict=True):
            optimizer.load_state_dict(state)

    def anchor_here(self) -> None:
        """Begin a round with the model as it is, after something else has written it. All ranks hold the same."""
        for unit in self.local.engine.all_units():
            unit.start()
