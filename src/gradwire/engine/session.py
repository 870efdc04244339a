"""A session: one worker's own process group, its thread, and the agreement of its ranks."""

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
from gradwire.exchange import Exchange
from gradwire.exchange.parts import check_workers
from gradwire.layout import Layout
from gradwire.transport.group import agree, agreed_number, compare, gather_text, own_group
from gradwire.transport.ledger import Ledger
from gradwire.transport.members import Members, Ranks
from gradwire.transport.process import Process
from gradwire.version import VERSION

T = TypeVar("T")

COMMON_TERMS = {"version of gradwire": f"{VERSION}, whose checkpoints have format {FORMAT}"}
"""Terms that all ranks must agree about, whatever they attach."""


class Session:
    """A process group of the engine's own over the ranks of another one, and the thread that uses it.

    Args:
        group: the ranks. A second group cannot be opened over `Members`, so the session uses their group itself.
        device: the device of the tensors that are sent.
        exchange: the exchange that the session will run.
        contract: terms that all ranks must agree about, as text by name.

    Attributes:
        token: a random number, the same on these ranks, that identifies the session.

    Raises:
        ValueError: the ranks disagree, or their number does not fit the exchange; raised on all ranks after closing.
    """

    def __init__(self, group: Ranks, device: torch.device, exchange: Exchange, contract: Mapping[str, str]) -> None:
        self.device, self.closed = device, False
        self.ledger = Ledger()
        self.process = Process(group if isinstance(group, Members) else own_group(group, device), self.ledger)
        self.lane = Lane("gradwire")
        self._end = weakref.finalize(self, _close_in_lane, self.process, self.lane)
        self._end.atexit = False
        _OPEN.add(self)
        with self.closed_if_it_fails():
            self.token = agreed_number(self.process, device)
            agree(self.process, device, COMMON_TERMS | dict(contract))
            check_workers(exchange, self.process.size)

    @contextmanager
    def closed_if_it_fails(self) -> Generator[None]:
        """Close the session if the body of this context raises."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def load(self, saved: Mapping[str, Any], prepare: Callable[[], T], moment: Callable[[Mapping[str, Any]], str]) -> T:
        """Return `prepare()` once every rank has prepared its own checkpoint, or raise on all ranks.

        Every rank calls it, in the session's thread. `prepare` checks and reads the checkpoint and changes nothing.
        `moment` returns a string that is equal for checkpoints of one step of one run.

        Raises:
            ValueError: some rank has refused its checkpoint, or the checkpoints are of different moments.
        """
        try:
            prepared, refusal = prepare(), None
        except ValueError as error:
            prepared, refusal = None, error
        except Exception as error:  # the other ranks wait for this rank's message, so any error is a refusal
            prepared, refusal = None, ValueError(f"the checkpoint cannot be read: {error}")
        refusals = gather_text(self.process, self.device, "" if refusal is None else str(refusal))
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


def describe_units(units: Sequence[tuple[Layout, torch.dtype]]) -> str:
    """Describe units as text: numbers of tensors, values and units, and a digest of their layouts and dtypes."""
    every = hashlib.blake2b(repr([(layout.digest, dtype) for layout, dtype in units]).encode(), digest_size=4)
    values, names = sum(layout.d for layout, _ in units), sum(len(layout.names) for layout, _ in units)
    return f"{names} tensors of {values} values in {len(units)} units ({every.hexdigest()})"


_OPEN: weakref.WeakSet[Session] = weakref.WeakSet()
_ENDING: set[Lane] = set()
"""Lanes of sessions that were garbage-collected, until their threads have closed the process groups."""


def _close_in_lane(process: Process, lane: Lane) -> None:
    """Close the process group of a session that was garbage-collected.

    The garbage collector may run at any point of a thread's work, so the lane's thread closes the group.
    """
    _ENDING.add(lane)
    lane.future(process.close)
    lane.submit(lambda: _ENDING.discard(lane))
    lane.end()


@atexit.register
def _close_all() -> None:
    """Close all open sessions when the program ends; gloo's threads would abort the process otherwise."""
    for session in list(_OPEN):
        session.close()
    for lane in list(_ENDING):
        lane.close()
