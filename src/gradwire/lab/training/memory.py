"""The workers' states in a run: the guard around an exchange, restoring states, residual norms, entries sent."""

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
    """The exchange in a `Guard`, as in the hook: for four bytes a step all workers see if a value is not finite."""
    exchange = parse(training.spec)
    return exchange if isinstance(exchange, Guard) else Guard(exchange)


def put_(state: State, memory: Memory, d: int) -> None:
    """Replace a state's tensors in place; ValueError if names or shapes do not fit this exchange.

    A tensor with one value per coordinate must have d values. Replicated state may have another shape.
    """
    mine = {name: (place, key, values) for place, key, name, values in flatten(state)}
    if mine.keys() != memory.keys():
        raise ValueError(f"a memory of {', '.join(mine) or 'nothing'} cannot take {', '.join(memory) or 'nothing'}")
    for name, (place, key, values) in mine.items():
        if values.shape == (d,) != memory[name].shape:
            raise ValueError(f"{name} has shape {tuple(memory[name].shape)} there and {(d,)} here")
        place[key] = memory[name].to(values.dtype, copy=True)


def residual(state: State) -> float | None:
    """The norm of error feedback's residual; None if there is none."""
    errors = [values for _, key, _, values in flatten(state) if key == "error"]
    return torch.cat(errors).square().sum().sqrt().item() if errors else None


def support(mean: Vector, dense: Tensor) -> int:
    """The number of distinct indices of a sparse mean, or of nonzero entries of `dense`, its dense form f[d]."""
    if isinstance(mean, Sparse):
        return int(torch.bincount(mean.indices.flatten()).count_nonzero())
    return int(dense.count_nonzero())
