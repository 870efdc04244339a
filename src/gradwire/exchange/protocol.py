"""The protocol of exchanges, and their states."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias, Union, runtime_checkable

import torch
from torch import Tensor

from gradwire.exchange.refusal import why_no_exchange
from gradwire.kernels import Accumulated
from gradwire.layout import Layout, Turn
from gradwire.vector import Sent

State: TypeAlias = dict[str, Union[Tensor, "State"]]
"""A nest of tensors, owned by the caller and changed in place.

A tensor [d] holds one value per coordinate. A tensor of any other shape is replicated: the same on all workers, such as
a threshold. It may be replaced by one of another shape.
"""

WEIGHT = "weight"
"""Replicated state of this name: how much an exchange asks of a budget for several (`Turn.budget`)."""

NOMINAL = 1 << 20
"""The dimension at which a pairing is checked before the real one is known; bias does not depend on it."""


@runtime_checkable
class Exchange(Protocol):
    """A frozen dataclass of hyperparameters; its repr is its spec.

    The law: all workers return the same `mean`, and the average of their `own` is `mean`.
    """

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        """Make the state of a worker before its first step. Refuses what does not fit the layout (ValueError).

        In batched mode one state serves all n workers and batch_shape is (n,): state per worker is then [n, d], and
        replicated state keeps its shape.
        """
        ...

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Average finite f[d] over the workers. x is only read; `own` and `mean` share no memory with it.

        On a batched turn (see Turn) x and `own` are f[n, d], one row a worker, and `mean` is f[d].
        """
        ...

    def omega(self, d: int) -> float | None:
        """Relative variance of `own` if unbiased, else None."""
        ...

    def delta(self, d: int) -> float | None:
        """Contraction of `own`: E |own - x|^2 <= (1 - delta) |x|^2. 0 is not expansive; None may expand."""
        ...


@runtime_checkable
class Accumulates(Protocol):
    """An exchange that adds a residual to x, and can do so in the one pass in which gradients are read.

    The caller then hands the `Accumulated` to the exchange where others take x. The state before the step stays in
    memory until the next one: to go back to it costs nothing.
    """

    def accumulate(self, pieces: Sequence[Tensor], state: State, turn: Turn) -> Accumulated | None:
        """Compute residual + pieces, the gradients f[...] of one unit in order; the sum is the new residual.

        Local. The pieces may hold zeros afterwards (`Accumulated.cleared`). None if the exchange cannot take this step
        so; then nothing has changed, and the caller hands over x as ever.
        """
        ...

    def rollback(self, state: State) -> None:
        """Make the state what it was before `accumulate`, in place and on the spot."""
        ...


@runtime_checkable
class Selective(Protocol):
    """An exchange or a compressor that selects by magnitude, and takes an `Accumulated` where others take a tensor.

    Its values may be bfloat16; what is read of them is widened to float32 before it is sent.
    """

    def wants_largest(self, turn: Turn) -> int:
        """How many of the largest magnitudes it selects on this turn; 0 if it cannot tell, and takes a tensor."""
        ...


@runtime_checkable
class Layered(Protocol):
    """An exchange that reads the norms of layers, and takes an `Accumulated`, of bfloat16 too, instead of a tensor."""

    def wants_norms(self, turn: Turn) -> Sequence[tuple[int, int]]:
        """Whose norms it reads on this turn: spans that tile the vector, or none."""
        ...


BEFORE = "_before"
"""Where a state keeps what it was before the step. A name that begins with an underscore is scratch: no checkpoint
holds it, and only its owner reads it."""


def wants_largest(part: object, turn: Turn) -> int:
    """How many of the largest magnitudes a part selects on this turn; 0 if it takes nothing but a tensor."""
    return part.wants_largest(turn) if isinstance(part, Selective) else 0


def wants_norms(part: object, turn: Turn) -> Sequence[tuple[int, int]]:
    """Whose norms a part reads on this turn; empty if it reads none."""
    return part.wants_norms(turn) if isinstance(part, Layered) else ()


def forget_(state: State) -> None:
    """Let go of all scratch in a nest, for callers that do not go back any more."""
    for name in [name for name in state if name.startswith("_")]:
        del state[name]
    for part in state.values():
        if isinstance(part, dict):
            forget_(part)


def visible(state: State) -> State:
    """Return the state without its scratch: the same tensors in a new dictionary."""
    return {name: part for name, part in state.items() if not name.startswith("_")}


def flatten(state: State, prefix: str = "") -> Iterator[tuple[State, str, str, Tensor]]:
    """Walk through a nest, but for its scratch: (the dictionary it lies in, its key there, dotted name, tensor)."""
    for key, value in visible(state).items():
        if isinstance(value, Tensor):
            yield state, key, prefix + key, value
        else:
            yield from flatten(value, f"{prefix}{key}.")


def clone(state: State) -> State:
    """Copy a nest of tensors."""
    return {name: clone(part) if isinstance(part, dict) else part.clone() for name, part in state.items()}


def copy_(target: State, source: State) -> None:
    """Copy one nest's values into another of the same structure, in place. Replicated state may change its shape."""
    for name, theirs in source.items():
        ours = target[name]
        if isinstance(theirs, dict):
            copy_(nest(target, name), theirs)
        elif not isinstance(ours, dict) and ours.shape == theirs.shape:
            ours.copy_(theirs)
        else:
            target[name] = theirs.clone()


def stateless(
    self: object,
    layout: Layout,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    batch_shape: tuple[int, ...] = (),
) -> State:
    """No state: the `init` of an exchange whose steps are independent of each other."""
    return {}


def check_exchange(exchange: Exchange, who: str) -> None:
    """Refuse what is not an exchange, a bare compressor above all (TypeError)."""
    if (wrong := why_no_exchange(exchange)) is not None:
        raise TypeError(f"{who} wraps an exchange, {wrong}")


def tensor(state: State, name: str) -> Tensor:
    """Read a tensor out of a state."""
    found = state[name]
    if isinstance(found, dict):  # not by Tensor, whose own check takes as long as a sum over a short vector
        raise TypeError(f"{name} of this state is a nest, not a tensor")
    return found


def replicated(state: State, name: str, shape: tuple[int, ...]) -> Tensor:
    """Read replicated state, which is zeros at first; a checkpoint's of another shape is replaced by zeros.

    It is the same on all workers, so all start again alike.
    """
    found = tensor(state, name)
    if found.shape != shape:
        found = state[name] = found.new_zeros(shape)
    return found


def no_weight() -> State:
    """No weight yet: f64[1, 1], on the CPU, where budgets are divided."""
    return {WEIGHT: torch.zeros((1, 1), dtype=torch.float64)}


def divide_budget(states: Mapping[Layout, State]) -> dict[Layout, float]:
    """Divide a common budget among several units: `Turn.budget` of the next step, relative to each unit's size.

    In proportion to their weights from the step before; by size if there are none. Weights are replicated, so all
    workers divide alike.
    """
    weights = [_weight(state) or 0.0 for state in states.values()]
    total, d = math.fsum(weights), sum(layout.d for layout in states)
    if len(states) == 1 or not 0 < total < math.inf:
        return dict.fromkeys(states, 1.0)
    return {layout: part / total * d / max(layout.d, 1) for layout, part in zip(states, weights, strict=True)}


def _weight(state: State) -> float | None:
    """Read the weight that lies anywhere in a state; None if there is none."""
    for name, part in visible(state).items():
        found = _weight(part) if isinstance(part, dict) else float(part) if name == WEIGHT else None
        if found is not None:
            return found
    return None


def nest(state: State, name: str) -> State:
    """Read an inner exchange's state out of a state."""
    found = state[name]
    if not isinstance(found, dict):
        raise TypeError(f"{name} of this state is a tensor, not a nest")
    return found
