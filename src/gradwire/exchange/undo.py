"""Undo a step: an exchange that notes what it overwrites of a state saves its caller a copy of the whole state.

    keep_(state, logged(exchange)) -> the step, in which the exchange calls `log_` before it writes -> restore_(state)

A sparse message overwrites k of d values, so that is all that is kept of them.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from gradwire.exchange.protocol import BEFORE, Exchange, State, clone, copy_, nest, tensor, visible
from gradwire.vector import Sparse, Vector

LOG = "_log"
"""Where a state keeps what its step has overwritten: {name: {"values": f[k], "indices": int64[k]}}, or all values."""


@runtime_checkable
class Logs(Protocol):
    """An exchange that calls `log_` before it overwrites parts of its state."""

    def logged(self) -> frozenset[str]:
        """Names of these parts; f[d] each, and changed in place."""
        ...


def logged(exchange: Exchange) -> frozenset[str]:
    """Names of the parts of its state that an exchange logs."""
    return exchange.logged() if isinstance(exchange, Logs) else frozenset()


def keep_(state: State, but: frozenset[str] = frozenset()) -> None:
    """Copy the state, `but` for what its exchange logs, to where `restore_` finds it; in place from the second time."""
    current = {name: part for name, part in visible(state).items() if name not in but}
    if isinstance(before := state.get(BEFORE), dict):
        copy_(before, current)
    else:
        state[BEFORE] = clone(current)
    if but:
        state[LOG] = {}


def log_(state: State, name: str, change: Vector) -> None:
    """Note the values that adding `change` to state[name] will overwrite, if the caller of the step wants them."""
    if not isinstance(log := state.get(LOG), dict):
        return
    values = tensor(state, name)
    if isinstance(change, Sparse):
        log[name] = {"indices": change.indices, "values": values[change.indices]}
    else:
        log[name] = {"values": values.clone()}


def restore_(state: State) -> None:
    """Make the state what it was when `keep_` was called, in place; once."""
    if isinstance(before := state.get(BEFORE), dict):
        current = {name: part for name, part in visible(state).items() if name in before}
        copy_(current, before)
        state.update(current)
    for name in _log(state):
        _put_back_(tensor(state, name), nest(_log(state), name))
    if LOG in state:
        state[LOG] = {}


def before(state: State) -> State:
    """Return the state as it was when `keep_` was called, to be read only."""
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
