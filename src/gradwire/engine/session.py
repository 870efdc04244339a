"""A session: one worker's own process group, its thread, and what its ranks agree about."""

from __future__ import annotations

import atexit
import hashlib
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from gradwire.checkpoint import FORMAT
from gradwire.engine.lane import Lane
from gradwire.layout import Layout
from gradwire.transport.group import agree, agreed_number, compare, own_group, tell
from gradwire.transport.ledger import Ledger
from gradwire.transport.members import Members, Ranks
from gradwire.transport.process import Process
from gradwire.version import VERSION

T = TypeVar("T")

SPOKEN = {"version of gradwire": f"{VERSION}, whose checkpoints have format {FORMAT}"}
"""What all ranks must have in common, whatever they attach."""


class Session:
    """A process group of the engine's own over the ranks of another one, and the thread that speaks on it.

    Args:
        group: the ranks. `Members` cannot be opened a second time: the session speaks on their group itself.
        device: where the tensors are that travel.
        contract: what all ranks must agree about, in words.

    Attributes:
        token: a number that these ranks have in common, and no others.

    Raises:
        ValueError: on all ranks, if they do not agree; the session is closed then.
    """

    def __init__(self, group: Ranks, device: torch.device, contract: Mapping[str, str]) -> None:
        self.device, self.closed = device, False
        self.ledger = Ledger()
        self.process = Process(group if isinstance(group, Members) else own_group(group, device), self.ledger)
        self.lane = Lane("gradwire")
        self._end = weakref.finalize(self, _let_go, self.process, self.lane)
        self._end.atexit = False
        _OPEN.add(self)
        with self.closed_if_it_fails():
            self.token = agreed_number(self.process, device)
            agree(self.process, device, SPOKEN | dict(contract))

    @contextmanager
    def closed_if_it_fails(self) -> Generator[None]:
        """Close the session if what is done in this context raises."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def load(self, saved: Mapping[str, Any], prepare: Callable[[], T], moment: Callable[[Mapping[str, Any]], str]) -> T:
        """Read a checkpoint on all ranks or on none: what `prepare` returns, once every rank has prepared its own.

        Every rank calls it, in the session's thread. `prepare` changes nothing; `moment` says in words what the
        checkpoints of one moment have in common.

        Raises:
            ValueError: this rank's refusal, or that another rank has refused or has a checkpoint of another moment.
        """
        try:
            prepared, refusal = prepare(), None
        except ValueError as error:
            prepared, refusal = None, error
        except Exception as error:  # of this rank alone: the others wait for its word
            prepared, refusal = None, ValueError(f"the checkpoint cannot be read: {error}")
        refusals = tell(self.process, self.device, "" if refusal is None else str(refusal))
        other = compare(self.process, self.device, "" if prepared is None else moment(saved))
        if refusal is not None or prepared is None:
            raise refusal or ValueError("this is not a checkpoint of a gradwire hook")
        for rank, words in enumerate(refusals):
            if words:
                raise ValueError(f"rank {rank} has refused its checkpoint: {words}")
        if other is not None:
            raise ValueError(f"rank {other} has a checkpoint of another step, seed or run")
        return prepared

    def close(self) -> None:
        """End the thread and the process group. The ledger stays readable."""
        if not self.closed:
            self.closed = True
            self._end.detach()
            _OPEN.discard(self)
            self.lane.close()
            self.process.close()


def in_words(units: Sequence[tuple[Layout, torch.dtype]]) -> str:
    """What is exchanged together: how much, and four bytes that tell it from anything else."""
    every = hashlib.blake2b(repr([(layout.digest, dtype) for layout, dtype in units]).encode(), digest_size=4)
    values, names = sum(layout.d for layout, _ in units), sum(len(layout.names) for layout, _ in units)
    return f"{names} tensors of {values} values in {len(units)} units ({every.hexdigest()})"


_OPEN: weakref.WeakSet[Session] = weakref.WeakSet()
_ENDING: set[Lane] = set()
"""Lanes of sessions without any reference left, until they have closed them."""


def _let_go(process: Process, lane: Lane) -> None:
    """Close what a session has opened when no reference to it is left.

    The garbage collector may call this in the middle of anything, so the lane's thread does the work.
    """
    _ENDING.add(lane)
    lane.future(process.close)
    lane.submit(lambda: _ENDING.discard(lane))
    lane.end()


@atexit.register
def _close_all() -> None:
    """Close what is still open when the program ends: gloo's threads would abort it."""
    for session in list(_OPEN):
        session.close()
    for lane in list(_ENDING):
        lane.close()
