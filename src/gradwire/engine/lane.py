"""A thread that runs calls one after the other, in the order in which they were submitted.

It is not a ThreadPoolExecutor because `submit` of that acquires locks: a signal handler that asks for a snapshot may
interrupt the main thread while it holds one. `SimpleQueue.put` is reentrant.
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
        # A daemon, because the interpreter joins all other threads at exit before any finalizer could end them.
        self._thread = threading.Thread(target=_serve, args=(self._calls,), name=name, daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, self._calls.put, None)

    def submit(self, call: Callable[[], None]) -> None:
        """Queue a call, which must not raise."""
        self._calls.put(call)

    def result(self, call: Callable[[], T]) -> T:
        """Queue a call, wait for it, and return its result or raise its error. After `close` it runs in this thread."""
        if not self._end.alive or threading.current_thread() is self._thread:
            return call()
        return self.future(call).result()

    def future(self, call: Callable[[], T]) -> Future[T]:
        """Queue a call, and return the future of its result at once. After `close` it runs in this thread."""
        future: Future[T] = Future()
        if self._end.alive:
            self._calls.put(lambda: _complete(future, call))
        else:
            _complete(future, call)
        return future

    def end(self) -> None:
        """End the thread after the queued calls, without waiting for it."""
        self._end()

    def close(self) -> None:
        """Run the queued calls, end the thread and wait for it."""
        self._end()
        if threading.current_thread() is not self._thread:
            self._thread.join()


def _serve(calls: Calls) -> None:
    while (call := calls.get()) is not None:
        call()
        del call  # otherwise the thread would keep the call's objects alive until the next call


def _complete(future: Future[T], call: Callable[[], T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)
