"""Rounds of a batched simulator, a hundred thousand times: run by a recording (recorded.py) where there can be one."""

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
"""A round, given its step. It changes tensors in place, always the same ones."""

SHORT = 1 << 15
"""Elements of all workers' vectors together up to which a round is worth recording."""

AS_THEY_ARE = 32
"""Rounds that are run first: a recording takes as long as about a hundred."""

logger = logging.getLogger("gradwire")


def each(once: Once, steps: range) -> None:
    """Run these rounds, in order, as they are."""
    for step in steps:
        once(step)


class Repeated:
    """Rounds that a recording runs from some round on."""

    def __init__(self, once: Once, simulator: Simulator) -> None:
        self._once, self._simulator = once, simulator
        self._left, self._run = AS_THEY_ARE, None

    def __call__(self, steps: range) -> None:
        """Run these rounds, in order."""
        first, rest = steps[: self._left], steps[self._left :]
        each(self._once, first)
        self._left -= len(first)
        if rest:
            self._run = self._run or self._recorded(rest[0])
            self._run(rest)

    def _recorded(self, step: int) -> Callable[[range], None]:
        """What runs rounds by a recording, and counts what they send; if there is none, what runs them as they are."""
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
    """A nest of the same tensors."""
    return {name: _copy(part) if isinstance(part, dict) else part for name, part in state.items()}


def _same(state: State, other: State) -> bool:
    """Whether two nests hold the same tensors, not only equal ones."""
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
