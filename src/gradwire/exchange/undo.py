"""Undo a step: if an exchange logs the values that it overwrites, its caller need not copy the whole state.

    keep_(state, logged(exchange)) -> the step, in which the exchange calls `log_` before it writes -> restore_(state)

A sparse message overwrites k of d values, so the log holds k values only.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from gradwire.exchange.protocol import BEFORE, Exchange, State, clone, copy_, nest, tensor, visible
from gradwire.vector import Sparse, Vector

LOG = "_log"
"""The name of a state's log of overwritten values: {name: {"values": f[k], "indices": int64[k]}}, or f[d] alone."""


@runtime_checkable
class Logs(Protocol):
    """An exchange that calls `log_` before it overwrites parts of its state."""

    def logged(self) -> frozenset[str]:
        """Return the names of these parts, each a tensor f[d] that changes in place."""
        ...


def logged(exchange: Exchange) -> frozenset[str]:
    """Return the names of the parts of its state that an exchange logs."""
    return exchange.logged() if isinstance(exchange, Logs) else frozenset()


def keep_(state: State, but: frozenset[str] = frozenset()) -> None:
    """Back up the state for `restore_`, except the parts `but` that its exchange logs; later calls reuse the memory."""
    current = {name: part for name, part in visible(state).items() if name not in but}
    if isinstance(before := state.get(BEFORE), dict):
        copy_(before, current)
    else:
        state[BEFORE] = clone(current)
    if but:
        state[LOG] = {}


def log_(state: State, name: str, change: Vector) -> None:
    """Log the values of state[name] that adding `change` will overwrite, if the caller has called `keep_` for it."""
    if not isinstance(log := state.get(LOG), dict):
        return
    values = tensor(state, name)
    if isinstance(change, Sparse):
        log[name] = {"indices": change.indices, "values": values[change.indices]}
    else:
        log[name] = {"values": values.clone()}


def restore_(state: State) -> None:
    """Restore the state from the last `keep_`, in place."""
    if isinstance(before := state.get(BEFORE), dict):
        current = {name: part for name, part in visible(state).items() if name in before}
        copy_(current, before)
        state.update(current)
    for name in _log(state):
        _put_back_(tensor(state, name), nest(_log(state), name))
    if LOG in state:
        state[LOG] = {}


def before(state: State) -> State:
    """Return the state from the last `keep_`; the caller must not write it."""
    found = visible(state)
    for name in _log(state):
        found[name] = tensor(state, name).clone()
        _put_back_(tensor(found, name), nest(_log(state), name))
    return found | (nest(state, BEFORE) if BEFORE in state else {})


def _log(state: State) -> State:
    return nest(state, LOG) if LOG in state else {}


def _put_back_(values: Tensor, entry: State) -> None:
    if "indices" in entry:
        values[tensor(entry, "indices")] = tensor(entry, "values")
    else:
        values.copy_(tensor(entry, "values"))
