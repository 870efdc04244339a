"""Run very many rounds of a batched simulator, from a recording (recorded.py) if they can be recorded."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import TypeAlias

from gradwire.exchange import State
from gradwire.lab.recorded import Unrecordable, record
from gradwire.simulator import Simulator
from gradwire.transport import Ledger

Once: TypeAlias = Callable[[int], None]
"""A round, called with its step. It must always change the same tensors in place."""

SHORT = 1 << 15
"""Rounds are recorded if all workers' vectors together have at most this many elements."""

AS_THEY_ARE = 32
"""Rounds that run before one is recorded, as recording takes as long as about a hundred rounds."""

logger = logging.getLogger("gradwire")


def each(once: Once, steps: range) -> None:
    """Run the round for each step, in order, without a recording."""
    for step in steps:
        once(step)


class Repeated:
    """Runs rounds, after the first `AS_THEY_ARE` from a recording if possible."""

    def __init__(self, once: Once, simulator: Simulator) -> None:
        self._once, self._simulator = once, simulator
        self._left, self._run = AS_THEY_ARE, None

    def __call__(self, steps: range) -> None:
        """Run the round for each of these steps, in order."""
        first, rest = steps[: self._left], steps[self._left :]
        each(self._once, first)
        self._left -= len(first)
        if rest:
            self._run = self._run or self._recorded(rest[0])
            self._run(rest)

    def _recorded(self, step: int) -> Callable[[range], None]:
        """Return a function that runs recorded rounds and counts their bytes, or, if unrecordable, runs them as is."""
        simulator = self._simulator
        ledger, states = simulator.ledger, simulator.state

        def tried(step: int) -> None:
            simulator.ledger, simulator.state = Ledger(simulator.workers), [_copy(state) for state in states]
            self._once(step)
            if not all(map(_same, simulator.state, states)):
                raise Unrecordable("the round replaces tensors of its state")

        try:
            recording = record(tried, step)
        except Unrecordable as why:
            logger.debug("rounds are run as they are: %s", why)
            return functools.partial(each, self._once)
        finally:
            sent, simulator.ledger, simulator.state = simulator.ledger, ledger, states

        def run(steps: range) -> None:
            recording(steps)
            ledger.repeat(sent, len(steps))

        return run


def _copy(state: State) -> State:
    """Copy the nested dictionaries, which then hold the same tensors."""
    return {name: _copy(part) if isinstance(part, dict) else part for name, part in state.items()}


def _same(state: State, other: State) -> bool:
    """Whether two states hold the same tensor objects."""
    if state.keys() != other.keys():
        return False
    for name, part in state.items():
        theirs = other[name]
        if isinstance(part, dict) and isinstance(theirs, dict):
            if not _same(part, theirs):
                return False
        elif part is not theirs:
            return False
    return True
