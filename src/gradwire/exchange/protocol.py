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

A tensor [d] holds one value per coordinate. A tensor of any other shape is replicated, that is, the same on all
workers, such as a threshold. It may be replaced by one of another shape.
"""

WEIGHT = "weight"
"""The name of replicated state that weighs an exchange's unit in a budget for several units (`Turn.budget`)."""

NOMINAL = 1 << 20
"""The dimension for checks of omega and delta before the real one is known; bias does not depend on it."""


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
        """Make a worker's state before its first step (ValueError: the exchange does not fit the layout).

        In batched mode one state serves all n workers and batch_shape is (n,): state per worker is then [n, d], and
        replicated state keeps its shape.
        """
        ...

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Average finite f[d] over the workers. x is not written; `own` and `mean` share no memory with it.

        On a batched turn (see Turn) x and `own` are f[n, d], one row per worker, and `mean` is f[d].
        """
        ...

    def omega(self, d: int) -> float | None:
        """Return omega with E |own - x|^2 <= omega |x|^2 if `own` is unbiased, else None."""
        ...

    def delta(self, d: int) -> float | None:
        """Return delta with E |own - x|^2 <= (1 - delta) |x|^2; 0 is not expansive, None may expand."""
        ...


@runtime_checkable
class Accumulates(Protocol):
    """An exchange that adds a residual to x, and can do so in the same pass that reads the gradients.

    The caller then calls the exchange with the `Accumulated` in place of x. The state before the step stays in memory
    until the next one, so rolling back is free.
    """

    def accumulate(self, pieces: Sequence[Tensor], state: State, turn: Turn) -> Accumulated | None:
        """Compute residual + pieces, the gradients f[...] of one unit in order; the sum becomes the new residual.

        It sends nothing. The pieces may hold zeros afterwards (`Accumulated.cleared`). It returns None if the exchange
        cannot accumulate in this step; then nothing has changed, and the caller calls the exchange with x.
        """
        ...

    def rollback(self, state: State) -> None:
        """Restore the state from before `accumulate`, in place, without a copy of the residual."""
        ...


@runtime_checkable
class Selective(Protocol):
    """An exchange or a compressor that selects by magnitude, and accepts an `Accumulated` instead of a tensor.

    The values may be bfloat16; selected ones are widened to float32 before they are sent.
    """

    def wants_largest(self, turn: Turn) -> int:
        """Return the number of largest magnitudes to select on this turn; 0 if unknown, and it needs a tensor."""
        ...


@runtime_checkable
class Layered(Protocol):
    """An exchange that reads the norms of layers, and accepts an `Accumulated`, of any dtype, instead of a tensor."""

    def wants_norms(self, turn: Turn) -> Sequence[tuple[int, int]]:
        """Return the spans (start, end) whose norms it reads on this turn; they tile the vector, or there are none."""
        ...


BEFORE = "_before"
"""The name under which a state keeps a backup from before the step. Names that begin with an underscore are scratch:
checkpoints do not contain them, and only their owner reads them."""


def wants_largest(part: object, turn: Turn) -> int:
    """Return the number of largest magnitudes that a part selects on this turn; 0 if it needs a tensor."""
    return part.wants_largest(turn) if isinstance(part, Selective) else 0


def wants_norms(part: object, turn: Turn) -> Sequence[tuple[int, int]]:
    """Return the spans whose norms a part reads on this turn; empty if it reads none."""
    return part.wants_norms(turn) if isinstance(part, Layered) else ()


def forget_(state: State) -> None:
    """Delete all scratch in a nest, for callers that will not roll back any more."""
    for name in [name for name in state if name.startswith("_")]:
        del state[name]
    for part in state.values():
        if isinstance(part, dict):
            forget_(part)


def visible(state: State) -> State:
    """Return the state without its own scratch: the same tensors in a new dictionary."""
    return {name: part for name, part in state.items() if not name.startswith("_")}


def flatten(state: State, prefix: str = "") -> Iterator[tuple[State, str, str, Tensor]]:
    """Yield every tensor of a nest except scratch, as (the dictionary that holds it, its key, dotted name, tensor)."""
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
    """Return no state: the `init` of an exchange whose steps are independent of each other."""
    return {}


def check_exchange(exchange: Exchange, who: str) -> None:
    """Raise TypeError for a value that is not an exchange, such as a compressor."""
    if (wrong := why_no_exchange(exchange)) is not None:
        raise TypeError(f"{who} wraps an exchange, {wrong}")


def tensor(state: State, name: str) -> Tensor:
    """Read a tensor out of a state."""
    found = state[name]
    if isinstance(found, dict):  # not `isinstance(found, Tensor)`, which takes as long as the sum of a short vector
        raise TypeError(f"{name} of this state is a nest, not a tensor")
    return found


def replicated(state: State, name: str, shape: tuple[int, ...]) -> Tensor:
    """Read replicated state, which is zeros at first; state of another shape, from a checkpoint, is replaced by zeros.

    All workers have the same state, so all of them replace it.
    """
    found = tensor(state, name)
    if found.shape != shape:
        found = state[name] = found.new_zeros(shape)
    return found


def no_weight() -> State:
    """Return the weight, 0 for none yet: f64[1, 1], on the CPU, where budgets are divided."""
    return {WEIGHT: torch.zeros((1, 1), dtype=torch.float64)}


def divide_budget(states: Mapping[Layout, State]) -> dict[Layout, float]:
    """Divide a common budget among units: return each unit's `Turn.budget` of the next step, relative to its size.

    The budget is divided in proportion to the weights of the step before, or by size if there are none. Weights are
    replicated, so all workers divide alike.
    """
    weights = [_weight(state) or 0.0 for state in states.values()]
    total, d = math.fsum(weights), sum(layout.d for layout in states)
    if len(states) == 1 or not 0 < total < math.inf:
        return dict.fromkeys(states, 1.0)
    return {layout: part / total * d / max(layout.d, 1) for layout, part in zip(states, weights, strict=True)}


def _weight(state: State) -> float | None:
    """Return the weight anywhere in a state; None if there is none."""
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
