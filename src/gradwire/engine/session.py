"""A session: one worker's own process group, its thread, and what its ranks agree about."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from gradwire.engine.lane import Lane
from gradwire.transport.group import agree, agreed_number, compare, own_group, tell
from gradwire.transport.ledger import Ledger
from gradwire.transport.members import Members, Ranks
from gradwire.transport.process import Process

T = TypeVar("T")


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
        atexit.register(_close, weakref.ref(self))
        with self.closed_if_it_fails():
            self.token = agreed_number(self.process, device)
            agree(self.process, device, contract)

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
            self.lane.close()
            self.process.close()


def _close(session: weakref.ref[Session]) -> None:
    """Close a session that is still open when the program ends."""
    if (still_there := session()) is not None:
        still_there.close()
