"""A thread that runs calls one after the other, in the order in which they were submitted.

Not a ThreadPoolExecutor, whose `submit` takes locks: a signal handler may interrupt the main thread while it holds one,
and ask for a snapshot itself. `SimpleQueue.put` may be interrupted by itself.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Calls: TypeAlias = "SimpleQueue[Callable[[], None] | None]"


class Lane:
    """One worker thread. It ends with `close`, or with the last reference to the lane."""

    def __init__(self, name: str) -> None:
        self._calls: Calls = SimpleQueue()
        # A daemon: the interpreter joins other threads before anything can tell them to end.
        self._thread = threading.Thread(target=_serve, args=(self._calls,), name=name, daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, self._calls.put, None)

    def submit(self, call: Callable[[], None]) -> None:
        """Run a call after all that were submitted before. It must not raise."""
        self._calls.put(call)

    def result(self, call: Callable[[], T]) -> T:
        """Run a call in its turn, wait for it, and return what it returns or raise what it raises."""
        if not self._end.alive or threading.current_thread() is self._thread:
            return call()
        return self.future(call).result()

    def future(self, call: Callable[[], T]) -> Future[T]:
        """Run a call in its turn, and return at once what will hold its result. A closed lane runs it here."""
        future: Future[T] = Future()
        if self._end.alive:
            self._calls.put(lambda: _complete(future, call))
        else:
            _complete(future, call)
        return future

    def end(self) -> None:
        """End the thread when it has finished what was submitted; do not wait for that."""
        self._end()

    def close(self) -> None:
        """Finish what was submitted and end the thread."""
        self._end()
        if threading.current_thread() is not self._thread:
            self._thread.join()


def _serve(calls: Calls) -> None:
    while (call := calls.get()) is not None:
        call()
        del call  # or the thread would keep what it has served alive until the next call


def _complete(future: Future[T], call: Callable[[], T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)
