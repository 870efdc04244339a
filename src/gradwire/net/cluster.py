"""Ranks that run: what they print, how they end, and their end at the latest with the caller."""

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

KILL_SECONDS = 5.0  # in which the keeper has always taken everything down, unless it is stopped or stuck itself


class Refused(RuntimeError):
    """Links of a chosen rate cannot be had on this machine; the one sentence says why."""


class Cluster:
    """Ranks that run; from `launch`. A context manager: leaving it kills what still runs. For one thread at a time.

    `address[r]` is rank r's address. What the ranks print is kept, in memory, until `lines` hands it out: a rank never
    waits for its reader while the caller is in one of the methods. In between, a pipe holds 64 KiB.
    """

    address: list[str]

    def __init__(
        self, keeper: subprocess.Popen[bytes], orders: int, events: int, printed: Sequence[int], address: list[str]
    ) -> None:
        self.address = address
        self._keeper, self._orders = keeper, os.fdopen(orders, "wb")
        self._lines: deque[str] = deque()
        self._events = _Stream(events, deque())
        self._up, self._complaint = False, "nothing was heard of them"
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
        """Yield what the ranks print to standard output, line by line as it comes, until all have ended.

        Every rank has a pipe of its own, so lines of different ranks never mix.
        """
        while True:
            while self._lines:
                yield self._lines.popleft()
            if not self._open:
                return
            self._pump(None)

    def wait(self, timeout: float | None = None) -> list[int]:
        """Return the exit codes in rank order once all ranks have ended: negative for a signal, -9 for killed.

        When `timeout` seconds have passed, kill all and raise TimeoutError. What the ranks print meanwhile is kept
        for `lines`.
        """
        in_time = self._pump_until_ended(timeout)
        self.kill()
        if not in_time:
            raise TimeoutError(f"the ranks did not end within {timeout} s and were killed")
        # A rank without a reported code died with the keeper.
        return [self._codes.get(rank, -signal.SIGKILL) for rank in range(len(self.address))]

    def kill(self) -> None:
        """Kill what still runs, and return when it is gone; nothing happens if all has ended."""
        # A word and not only the end, which does not come while a fork of this process holds the pipe too.
        self.order(b"")
        with suppress(BrokenPipeError):  # the keeper has ended, and what it has not read is lost on it
            self._orders.close()
        if not self._pump_until_ended(KILL_SECONDS):
            self._keeper.kill()  # the kernel makes everything in its namespaces, or every rank on loopback, follow
            self._pump_until_ended(KILL_SECONDS)
        self._keeper.wait()
        while self._open:
            self._drop(self._open[0])
        self._selector.close()

    def order(self, words: bytes) -> None:
        """Write a line to the keeper, if it still listens: first the plan, then a word that ends everything."""
        if not self._orders.closed:
            with suppress(BrokenPipeError):
                self._orders.write(words + b"\n")
                self._orders.flush()

    def await_links(self, timeout: float) -> None:
        """Return when the links are laid; Refused with the reason if they cannot be, or not within `timeout` seconds.

        `launch` has done this already.
        """
        deadline = time.monotonic() + timeout
        while not self._up and self._events in self._open and (left := deadline - time.monotonic()) > 0:
            self._pump(left)
        if not self._up:
            raise Refused(f"links of a chosen rate cannot be had here: {self._complaint.rstrip('.')}")

    def _pump_until_ended(self, timeout: float | None) -> bool:
        """Take in what comes until all has ended; say whether it has within `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._open:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            self._pump(left)
        return True

    def _pump(self, timeout: float | None) -> None:
        """Take in what the pipes hold, waiting at most `timeout` seconds for something to come."""
        # Once the keeper is gone nothing more is written, though some process may hold a rank's pipe a little longer.
        over = self._events not in self._open
        ready: list[_Stream] = [key.data for key, _ in self._selector.select(0 if over else timeout)]
        for stream in ready:
            if not stream.read():
                self._drop(stream)
        while over and not ready and self._open:
            self._drop(self._open[0])
        while self._events.lines:
            self._hear(self._events.lines.popleft())

    def _hear(self, line: str) -> None:
        """Take note of an event."""
        if not line.startswith("{"):  # no event: some program's complaint from before the keeper could speak
            self._complaint = line
            return
        event: dict[str, Any] = json.loads(line)
        if "rank" in event:
            self._codes[event["rank"]] = event["code"]
        self._up = self._up or "up" in event
        self._complaint = event.get("refused", self._complaint)

    def _drop(self, stream: "_Stream") -> None:
        """Close a stream, whose last line may have had no newline."""
        self._selector.unregister(stream.pipe)
        stream.finish()
        self._open.remove(stream)


class _Stream:
    """What comes through a pipe, cut into lines."""

    def __init__(self, pipe: int, lines: deque[str]) -> None:
        self.pipe, self.lines = os.fdopen(pipe, "rb", buffering=0), lines
        self._rest = b""

    def read(self) -> bool:
        """Take in what is there; return False at the end."""
        chunk = self.pipe.read(1 << 16)
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        self.lines.extend(line.decode(errors="replace") for line in whole)
        return bool(chunk)

    def finish(self) -> None:
        """Take what is left for a line, and close the pipe."""
        if self._rest:
            self.lines.append(self._rest.decode(errors="replace"))
        self.pipe.close()
