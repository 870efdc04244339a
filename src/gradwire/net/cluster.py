"""Running ranks: their output, their exit codes, and their end, which comes with the caller's at the latest."""

import json
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

KILL_SECONDS = 5.0  # the keeper takes everything down within this time, unless it is stopped or stuck itself


class Refused(RuntimeError):
    """Links of a chosen rate are not available on this machine; the message says why in one sentence."""


class Cluster:
    """Running ranks, started by `launch`. A context manager that kills all running ranks on exit. Not thread-safe.

    `address[r]` is the IP address of rank r. Output of the ranks is buffered in memory until `lines` yields it, so no
    rank blocks on output while the caller is in one of the methods. Between calls a pipe holds 64 KiB.
    """

    address: list[str]

    def __init__(
        self, keeper: subprocess.Popen[bytes], orders: int, events: int, printed: Sequence[int], address: list[str]
    ) -> None:
        self.address = address
        self._keeper, self._orders = keeper, os.fdopen(orders, "wb")
        self._lines: deque[str] = deque()
        self._events = _Stream(events, deque())
        self._up, self._reason = False, "no message came from them"
        self._codes: dict[int, int] = {}
        self._open = [self._events, *(_Stream(pipe, self._lines) for pipe in printed)]
        self._selector = selectors.DefaultSelector()
        for stream in self._open:
            self._selector.register(stream.pipe, selectors.EVENT_READ, stream)

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def lines(self) -> Iterator[str]:
        """Yield the lines that ranks print to standard output, as they come, until all ranks have ended.

        Every rank has its own pipe, so lines of different ranks never mix.
        """
        while True:
            while self._lines:
                yield self._lines.popleft()
            if not self._open:
                return
            self._pump(None)

    def wait(self, timeout: float | None = None) -> list[int]:
        """Wait until all ranks have ended and return their exit codes in rank order.

        A code is negative for a signal, such as -9 for SIGKILL. Output of the ranks is kept for `lines`.

        Raises:
            TimeoutError: `timeout` seconds have passed; all ranks are then killed.
        """
        in_time = self._pump_until_ended(timeout)
        self.kill()
        if not in_time:
            raise TimeoutError(f"the ranks did not end within {timeout} s and were killed")
        # A rank without a reported code died with the keeper.
        return [self._codes.get(rank, -signal.SIGKILL) for rank in range(len(self.address))]

    def kill(self) -> None:
        """Kill all running ranks and return when they have ended; does nothing if they have already."""
        # An explicit line, because a fork of this process may hold the pipe open, so that closing it is not seen.
        self.order(b"")
        with suppress(BrokenPipeError):  # the keeper has ended without reading everything
            self._orders.close()
        if not self._pump_until_ended(KILL_SECONDS):
            self._keeper.kill()  # the kernel then ends everything in its namespaces, or on loopback every rank
            self._pump_until_ended(KILL_SECONDS)
        self._keeper.wait()
        while self._open:
            self._drop(self._open[0])
        self._selector.close()

    def order(self, words: bytes) -> None:
        """Write a line to the keeper, if it still reads: first the plan; any later line ends everything."""
        if not self._orders.closed:
            with suppress(BrokenPipeError):
                self._orders.write(words + b"\n")
                self._orders.flush()

    def await_links(self, timeout: float) -> None:
        """Wait until the links are set up; called by `launch`.

        Raises:
            Refused: the links could not be set up, or not within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not self._up and self._events in self._open and (left := deadline - time.monotonic()) > 0:
            self._pump(left)
        if not self._up:
            raise Refused(f"links of a chosen rate cannot be had here: {self._reason.rstrip('.')}")

    def _pump_until_ended(self, timeout: float | None) -> bool:
        """Read output and events until everything has ended; return whether it did within `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._open:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            self._pump(left)
        return True

    def _pump(self, timeout: float | None) -> None:
        """Read what the pipes hold, waiting at most `timeout` seconds for data."""
        # Once the keeper has ended nothing more is written, though a process may hold a rank's pipe a little longer.
        over = self._events not in self._open
        ready: list[_Stream] = [key.data for key, _ in self._selector.select(0 if over else timeout)]
        for stream in ready:
            if not stream.read():
                self._drop(stream)
        while over and not ready and self._open:
            self._drop(self._open[0])
        while self._events.lines:
            self._note(self._events.lines.popleft())

    def _note(self, line: str) -> None:
        """Record an event of the keeper."""
        if not line.startswith("{"):  # not an event: an error message of a program that ran before the keeper
            self._reason = line
            return
        event: dict[str, Any] = json.loads(line)
        if "rank" in event:
            self._codes[event["rank"]] = event["code"]
        self._up = self._up or "up" in event
        self._reason = event.get("refused", self._reason)

    def _drop(self, stream: "_Stream") -> None:
        """Close a stream; its last line may lack a newline."""
        self._selector.unregister(stream.pipe)
        stream.finish()
        self._open.remove(stream)


class _Stream:
    """A pipe whose data is split into lines."""

    def __init__(self, pipe: int, lines: deque[str]) -> None:
        self.pipe, self.lines = os.fdopen(pipe, "rb", buffering=0), lines
        self._rest = b""

    def read(self) -> bool:
        """Read available data; return False at the end of the stream."""
        chunk = self.pipe.read(1 << 16)
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        self.lines.extend(line.decode(errors="replace") for line in whole)
        return bool(chunk)

    def finish(self) -> None:
        """Keep any remaining data as a line, and close the pipe."""
        if self._rest:
            self.lines.append(self._rest.decode(errors="replace"))
        self.pipe.close()
