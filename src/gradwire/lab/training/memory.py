"""What a run knows of its workers' memories, and of what they send."""

from __future__ import annotations

import torch
from torch import Tensor

from gradwire.exchange import Exchange, State
from gradwire.exchange.protocol import flatten
from gradwire.lab.averager import Memory
from gradwire.lab.training.settings import Training
from gradwire.memory.guard import Guard
from gradwire.spec import parse
from gradwire.vector import Sparse, Vector


def guarded(training: Training) -> Exchange:
    """The exchange behind a guard, as the hook has it: four bytes a step, and all see a run diverge."""
    exchange = parse(training.spec)
    return exchange if isinstance(exchange, Guard) else Guard(exchange)


def put_(state: State, memory: Memory, d: int) -> None:
    """Replace a state's tensors; ValueError if they are not those of this exchange.

    What holds one value per coordinate must have d values. Replicated state may have another shape.
    """
    mine = {name: (place, key, values) for place, key, name, values in flatten(state)}
    if mine.keys() != memory.keys():
        raise ValueError(f"a memory of {', '.join(mine) or 'nothing'} cannot take {', '.join(memory) or 'nothing'}")
    for name, (place, key, values) in mine.items():
        if values.shape == (d,) != memory[name].shape:
            raise ValueError(f"{name} has shape {tuple(memory[name].shape)} there and {(d,)} here")
        place[key] = memory[name].to(values.dtype, copy=True)


def residual(state: State) -> float | None:
    """Length of error feedback's residual; None where there is none."""
    errors = [values for _, key, _, values in flatten(state) if key == "error"]
    return torch.cat(errors).square().sum().sqrt().item() if errors else None


def support(mean: Vector, dense: Tensor) -> int:
    """Entries of a mean, given its dense form f[d]."""
    if isinstance(mean, Sparse):
        return int(torch.bincount(mean.indices.flatten()).count_nonzero())
    return int(dense.count_nonzero())
