"""The keeper: a process that sets up the links, starts the ranks, and takes everything down when it ends.

It is run by its path, not imported with the package, so it needs only the standard library and starts in tens of
milliseconds. With links it is process 1 of its own pid, mount and network namespaces, which the kernel takes down when
it ends for any reason. Without links it is the subreaper of its descendants, and the ranks die with it (PDEATHSIG).

Standard input: one line, the `Plan` as JSON; any further byte, or the end of the stream, means "kill everything".
Standard error: the events, one JSON object a line: `{"up": true}` or `{"refused": reason}`, then `{"rank": r,
"code": c}` as each rank ends.
Arguments: the file descriptor of the ranks' standard error, then those of each rank's standard output.
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
    """What to run: first the steps, one after the other, then all commands at once."""

    steps: list[tuple[list[str], str]]  # programs that must end with code 0, and the standard input of each
    commands: list[list[str]]  # one a rank
    environments: list[dict[str, str]]  # one a rank, added to the keeper's own
    grace: float  # seconds that the other ranks may run after one has failed


class Keeper:
    """The running ranks, and the pipe to which their events are written."""

    def __init__(self, grace: float, events: int) -> None:
        self.grace, self.events = grace, events
        self.deadline: float | None = None  # None until a rank has failed
        self.ranks: dict[int, int] = {}  # process id of each running rank to its rank
        self.started: list[subprocess.Popen[bytes]] = []  # kept, because subprocess may reap a Popen that is collected

    def report(self, **event: object) -> None:
        """Write one event."""
        with suppress(BrokenPipeError):  # the reader has ended; the ranks must still be ended in order
            os.write(self.events, json.dumps(event).encode() + b"\n")

    def start(self, rank: int, command: list[str], environment: dict[str, str], output: int) -> None:
        """Start a rank in its own session; one that cannot be started is reported as ended with code 127."""
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
            self.ended(rank, 127)  # a shell's code for a command not found
        else:
            self.started.append(process)
            self.ranks[process.pid] = rank
        finally:
            os.close(output)  # the rank has its own copy

    def ended(self, rank: int, code: int) -> None:
        """Report a rank's end; the first failure starts the grace period."""
        self.report(rank=rank, code=code)
        if code and self.deadline is None:
            self.deadline = time.monotonic() + self.grace

    def watch(self, wake: int) -> None:
        """Return when all ranks have ended, when standard input has data or ends, or when the grace period is over."""
        while self.ranks:
            left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
            ready = select.select([0, wake], [], [], left)[0]
            if 0 in ready or not ready:
                return
            os.read(wake, 4096)
            for pid, code in reaped():
                if pid in self.ranks:  # else it was an orphan, which only had to be reaped
                    self.ended(self.ranks.pop(pid), code)

    def clear(self) -> None:
        """Kill and reap all descendants; the children of a killed process become ours, so the loop reaches them all."""
        while pids := children():
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            for pid in pids:
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                if pid in self.ranks:
                    self.ended(self.ranks.pop(pid), code)


def die_with(keeper: int) -> None:
    """In the child that will become a rank, ask the kernel for SIGKILL when the keeper ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != keeper:  # the keeper ended before the call
        os._exit(1)


def wake_on_child() -> int:
    """Return a file descriptor that becomes readable whenever a child may have ended."""
    wake, on_signal = os.pipe()
    os.set_blocking(on_signal, False)
    signal.set_wakeup_fd(on_signal, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, ignored)  # without a handler the signal does not wake select
    return wake


def ignored(number: int, frame: FrameType | None) -> None:
    """Do nothing with a signal."""


def reaped() -> Iterator[tuple[int, int]]:
    """Reap the children that have ended; yield (process id, exit code), a negative code for a signal."""
    with suppress(ChildProcessError):  # no child is left
        while (end := os.waitpid(-1, os.WNOHANG))[0]:
            yield end[0], os.waitstatus_to_exitcode(end[1])


def children() -> list[int]:
    """Return the ids of the keeper's child processes, read from `stat`, as not every kernel lists children."""
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the process ended meanwhile
            # The name, in parentheses, may contain anything; the state and the parent follow it.
            if int(stat.read_text(errors="replace").rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(stat.parent.name))
    return found


def run(command: list[str], script: str) -> None:
    """Run a program with `script` as standard input; OSError with the first line of its error output if it fails."""
    done = subprocess.run(command, input=script, text=True, capture_output=True, check=False)
    if done.returncode:
        words = (done.stderr.strip() or f"it ended with code {done.returncode}").splitlines()[0]
        raise OSError(f"{Path(command[0]).name}: {words.removeprefix(Path(command[0]).name + ': ')}")


def main() -> None:
    """Read the plan from standard input and carry it out."""
    events = os.dup(2)
    errors, *outputs = map(int, sys.argv[1:])
    os.dup2(errors, 2)
    os.close(errors)
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return  # the calling process ended before it sent a plan
    plan = Plan(**json.loads(line))
    keeper = Keeper(plan.grace, events)
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        for command, script in plan.steps:
            run(command, script)
    except OSError as error:
        keeper.report(refused=str(error))
        return
    keeper.report(up=True)
    wake = wake_on_child()
    try:
        for rank, what in enumerate(zip(plan.commands, plan.environments, outputs, strict=True)):
            keeper.start(rank, *what)
        keeper.watch(wake)
    finally:
        keeper.clear()


if __name__ == "__main__":
    main()
