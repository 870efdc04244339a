"""What every exchange is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol, TypeAlias, Union, runtime_checkable

import torch
from torch import Tensor

from gradwire.exchange.refusal import why_no_exchange
from gradwire.layout import Layout, Turn
from gradwire.vector import Sent

State: TypeAlias = dict[str, Union[Tensor, "State"]]
"""A nest of tensors, owned by the caller and changed in place.

A tensor [d] holds one value per coordinate. A tensor of any other shape is a fact that all workers know alike, such as
a threshold; it may be replaced by one of another shape.
"""

WEIGHT = "weight"
"""A fact of this name says how much an exchange asks of a budget that it shares with others (`Turn.budget`)."""

NOMINAL = 1 << 20
"""The dimension at which a pairing is judged before the real one is known; being biased does not depend on it."""


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

        In a batched laboratory one state serves all n workers and lead is (n,): what is a worker's own is then [n, d],
        what all workers know is [d] as ever.
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
class Taker(Protocol):
    """An exchange that begins by adding a tensor of its state to x, and lets the caller do so (`Turn.given`).

    On such a turn x is the sum already, put together in the one pass in which gradients arrive, and the exchange's for
    good: afterwards it lies in the state under the name `takes`; the tensor that was there is the caller's, with what
    it held before the step. So a caller that may have to go back need not copy it, and nobody needs a third vector.
    After a step whose `Sent` is not finite it must go back: that tensor, and a copy of the rest, are the state again.
    Until its first answer the exchange does not change x.
    """

    @property
    def takes(self) -> str | None:
        """The name in its state; None if it only reads x after all."""
        ...


def stateless(
    self: object,
    layout: Layout,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    batch_shape: tuple[int, ...] = (),
) -> State:
    """Nothing to remember: the `init` of an exchange whose every step is a step of its own."""
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
    """Read a fact, which is zeros before it is known; a checkpoint's of another shape gives way to zeros in the state.

    All workers hold the same facts, so that all start anew alike.
    """
    found = tensor(state, name)
    if found.shape != shape:
        found = state[name] = found.new_zeros(shape)
    return found


def no_weight() -> State:
    """Nobody has asked for anything yet: f64[1, 1], on the CPU, where budgets are shared out."""
    return {WEIGHT: torch.zeros((1, 1), dtype=torch.float64)}


def divide_budget(states: Mapping[Layout, State]) -> dict[Layout, float]:
    """What part of a common budget each of several units gets, relative to its size: `Turn.budget` of the next step.

    In proportion to the weights that they know from the step before; by size where none is known. Weights are facts, so
    that all workers share out alike.
    """
    weights = [_weight(state) or 0.0 for state in states.values()]
    total, d = math.fsum(weights), sum(layout.d for layout in states)
    if len(states) == 1 or not 0 < total < math.inf:
        return dict.fromkeys(states, 1.0)
    return {layout: part / total * d / max(layout.d, 1) for layout, part in zip(states, weights, strict=True)}


def _weight(state: State) -> float | None:
    """Read the weight that lies anywhere in a state; None if there is none."""
    for name, part in state.items():
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
