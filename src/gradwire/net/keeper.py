"""The keeper: lays the links, starts the ranks, and takes everything down with itself.

Run by its path, never as part of the package: it needs the standard library alone, and starts in tens of milliseconds.
With links it is process 1 of its own pid, mount and network namespaces, which the kernel takes down when it ends,
however it ends. Without links it adopts every orphan below it, and the ranks ask to die with it.

Standard input: one line, the `Plan` as JSON; whatever follows, a byte or the end, means "kill everything".
Standard error: the events, one JSON object a line: `{"up": true}` or `{"refused": words}`, then `{"rank": r,
"code": c}` as each rank ends.
Arguments: the file descriptors of the ranks' standard error, then of each rank's standard output.
"""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NamedTuple

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
LIBC = ctypes.CDLL(None)


class Plan(NamedTuple):
    """What to run, in this order."""

    steps: list[tuple[list[str], str]]  # programs that must end with code 0, and what each reads
    commands: list[list[str]]  # one a rank
    environments: list[dict[str, str]]  # one a rank, on top of the keeper's own
    grace: float  # seconds that the others have when one has failed


class Keeper:
    """Holds the ranks, and the pipe on which it tells what became of them."""

    def __init__(self, grace: float, events: int) -> None:
        self.grace, self.events = grace, events
        self.deadline: float | None = None  # none before a rank has failed
        self.ranks: dict[int, int] = {}  # of those that run: process id to rank
        self.started: list[subprocess.Popen[bytes]] = []  # kept, lest subprocess reap a rank behind our back

    def tell(self, **event: object) -> None:
        """Write one event."""
        with suppress(BrokenPipeError):  # the listener is gone; what is to be done stays the same
            os.write(self.events, json.dumps(event).encode() + b"\n")

    def start(self, rank: int, command: list[str], environment: dict[str, str], output: int) -> None:
        """Start a rank in a session of its own; one that cannot be started has ended with code 127."""
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                env={**os.environ, **environment},
                start_new_session=True,
                preexec_fn=partial(die_with, os.getpid()),
            )
        except OSError as error:
            sys.stderr.write(f"rank {rank} could not be started: {error}\n")
            self.ended(rank, 127)  # as a shell says it
        else:
            self.started.append(process)
            self.ranks[process.pid] = rank
        finally:
            os.close(output)  # the rank has its own copy

    def ended(self, rank: int, code: int) -> None:
        """Tell of a rank's end; the first failure starts the clock."""
        self.tell(rank=rank, code=code)
        if code and self.deadline is None:
            self.deadline = time.monotonic() + self.grace

    def watch(self, wake: int) -> None:
        """Return when all ranks have ended, when standard input says so, or when the grace is over."""
        while self.ranks:
            left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
            ready = select.select([0, wake], [], [], left)[0]
            if 0 in ready or not ready:
                return
            os.read(wake, 4096)
            for pid, code in reaped():
                if pid in self.ranks:  # else an orphan, and reaping it was all there was to do
                    self.ended(self.ranks.pop(pid), code)

    def clear(self) -> None:
        """Kill and reap until nothing is left; the children of the killed become ours, so this ends with the last."""
        while pids := children():
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            for pid in pids:
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                if pid in self.ranks:
                    self.ended(self.ranks.pop(pid), code)


def die_with(keeper: int) -> None:
    """Ask, in the child that will become a rank, for SIGKILL when the keeper ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != keeper:  # it ended before we could ask
        os._exit(1)


def wake_on_child() -> int:
    """Return a file descriptor that has bytes to read whenever a child may have ended."""
    wake, on_signal = os.pipe()
    os.set_blocking(on_signal, False)
    signal.set_wakeup_fd(on_signal, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, unheeded)  # without a handler the signal wakes no select
    return wake


def unheeded(number: int, frame: FrameType | None) -> None:
    """Do nothing about a signal."""


def reaped() -> Iterator[tuple[int, int]]:
    """Reap the children that have ended: process id, exit code (negative: the signal)."""
    with suppress(ChildProcessError):  # no child is left at all
        while (end := os.waitpid(-1, os.WNOHANG))[0]:
            yield end[0], os.waitstatus_to_exitcode(end[1])


def children() -> list[int]:
    """Return the processes whose parent is the keeper; from `stat`, as not every kernel lists children."""
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended while we looked
            # The name, in parentheses, may hold anything; the state and the parent follow it.
            if int(stat.read_text(errors="replace").rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(stat.parent.name))
    return found


def run(command: list[str], script: str) -> None:
    """Run a program that reads `script`; OSError with its first words if it fails."""
    done = subprocess.run(command, input=script, text=True, capture_output=True, check=False)
    if done.returncode:
        words = (done.stderr.strip() or f"it ended with code {done.returncode}").splitlines()[0]
        raise OSError(f"{Path(command[0]).name}: {words.removeprefix(Path(command[0]).name + ': ')}")


def main() -> None:
    """Follow the plan on standard input."""
    events = os.dup(2)
    errors, *outputs = map(int, sys.argv[1:])
    os.dup2(errors, 2)
    os.close(errors)
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return  # the calling process ended before it had spoken
    plan = Plan(**json.loads(line))
    keeper = Keeper(plan.grace, events)
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        for command, script in plan.steps:
            run(command, script)
    except OSError as error:
        keeper.tell(refused=str(error))
        return
    keeper.tell(up=True)
    wake = wake_on_child()
    try:
        for rank, what in enumerate(zip(plan.commands, plan.environments, outputs, strict=True)):
            keeper.start(rank, *what)
        keeper.watch(wake)
    finally:
        keeper.clear()


if __name__ == "__main__":
    main()
