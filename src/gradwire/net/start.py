"""Start a cluster: check the arguments, find the programs, start the keeper and send it the plan."""

import functools
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from gradwire.net import links
from gradwire.net.cluster import Cluster, Refused
from gradwire.net.keeper import Plan
from gradwire.net.rate import parse_rate, within

KEEPER = str(Path(__file__).with_name("keeper.py"))  # by path, as `-m` would import gradwire and with it torch
START_SECONDS = 60.0  # ample: setting up 200 links takes a few seconds


def launch(
    commands: Sequence[Sequence[str]],
    rate: str | int | None = None,
    env: Mapping[str, str] = {},
    grace: float = 30.0,
    stderr: int | IO[Any] | None = None,
) -> Cluster:
    """Start every command as a rank, on links of a chosen rate or on loopback.

    Every rank gets the caller's environment, updated by `env` and then by RANK, WORLD_SIZE, LOCAL_RANK (0),
    MASTER_ADDR, MASTER_PORT, GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME and GRADWIRE_INTERFACE. On links, a rank sees no
    other network and nothing under /run, and it seems to run as root even if the caller does not. Processes that a rank
    leaves running are killed when the last rank has ended.

    After a pause, a link passes the first 4 KiB unshaped (above 65 Mbit/s: the first half of a millisecond).

    Args:
        commands: `commands[r]` is the command line of rank r.
        rate: the bandwidth of every link, as text such as "100mbit" or in bits per second; None for loopback.
        env: environment variables for all ranks.
        grace: seconds that the other ranks may run after one has failed, before they are killed.
        stderr: where the ranks' standard error goes: a file, its descriptor, subprocess.DEVNULL, or None for the
            caller's.

    Raises:
        Refused: links of a chosen rate are not available on this machine.
        ValueError: an argument is invalid.
    """
    asked = [list(command) for command in commands]
    check(asked, env, grace)
    bits = parse_rate(rate) if isinstance(rate, str) else None if rate is None else within(rate, rate)
    prefix: list[str] = []
    steps: list[links.Step] = []
    if bits is not None:
        programs = needed_programs()
        prefix, steps = programs.isolated(), links.steps(len(asked), bits, programs)
        asked = [[*programs.inside(rank), *command] for rank, command in enumerate(asked)]
    plan = Plan(steps, asked, links.environments(len(asked), bits), grace)
    cluster = start_keeper(prefix, plan, {**os.environ, **env}, stderr, links.addresses(len(asked), bits))
    try:
        cluster.await_links(START_SECONDS)
    except BaseException:
        cluster.kill()
        raise
    return cluster


@functools.cache
def refusal() -> str | None:
    """Return None if links of a chosen rate are available on this machine, else one sentence that says why not.

    The first call tries it with two processes, in a fraction of a second; later calls return the same answer.
    """
    nothing = [sys.executable, "-I", "-S", "-c", ""]
    with tempfile.TemporaryFile() as errors:
        try:
            with launch([nothing, nothing], rate="100mbit", grace=0, stderr=errors) as cluster:
                codes = cluster.wait(timeout=START_SECONDS)
        except (Refused, TimeoutError) as reason:
            return str(reason)
        errors.seek(0)
        words = errors.read().decode(errors="replace").strip().splitlines()[:1]
    failed = f"processes on links of a chosen rate fail here, with codes {codes}: {' '.join(words)}"
    return failed if any(codes) else None


def check(commands: list[list[str]], env: Mapping[str, str], grace: float) -> None:
    """Raise ValueError if the commands or the grace period are invalid."""
    if not 1 <= len(commands) <= links.MOST_RANKS:
        raise ValueError(f"a cluster has 1 to {links.MOST_RANKS} ranks, a command each; got {len(commands)} commands")
    path = env.get("PATH", os.environ.get("PATH"))
    for rank, command in enumerate(commands):
        if not command:
            raise ValueError(f"the command of rank {rank} is empty")
        if shutil.which(command[0], path=path) is None:
            raise ValueError(f"the command of rank {rank} starts with {command[0]!r}, which is not a program here")
    if not 0 <= grace < math.inf:
        raise ValueError(f"grace must be a finite number of seconds, at least 0; got {grace}")


def needed_programs() -> links.Programs:
    """Find the programs; Refused names those that are missing."""
    try:
        return links.find_programs()
    except FileNotFoundError as error:
        raise Refused(f"links of a chosen rate cannot be had here: {error}") from None


def start_keeper(
    prefix: list[str], plan: Plan, env: dict[str, str], stderr: int | IO[Any] | None, address: list[str]
) -> Cluster:
    """Start the keeper, its command line behind `prefix`, and send it the plan."""
    errors = target(stderr)
    plan_reader, orders = os.pipe()
    readers, writers = zip(*(os.pipe() for _ in ["events", *plan.commands]), strict=True)
    theirs = [errors, *writers[1:]]
    try:
        keeper = subprocess.Popen(
            # Isolated and without site: the caller's PYTHON* variables are for the ranks.
            [*prefix, sys.executable, "-I", "-S", KEEPER, *map(str, theirs)],
            stdin=plan_reader,
            stdout=subprocess.DEVNULL,
            stderr=writers[0],  # for errors of `unshare` and for the keeper's events
            pass_fds=theirs,
            env=env,
            start_new_session=True,  # Ctrl-C at the terminal reaches only the caller, which then kills the others
        )
    except BaseException:
        close([orders, *readers])
        raise
    finally:
        close([errors, plan_reader, *writers])
    cluster = Cluster(keeper, orders, readers[0], readers[1:], address)
    cluster.order(json.dumps(plan._asdict()).encode())
    return cluster


def close(descriptors: Sequence[int]) -> None:
    """Close file descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)


def target(stderr: int | IO[Any] | None) -> int:
    """Return a new file descriptor, which the caller must close, for the ranks' standard error."""
    if stderr == subprocess.DEVNULL:
        return os.open(os.devnull, os.O_WRONLY)
    if isinstance(stderr, int) and stderr < 0:
        raise ValueError(f"stderr must be a file, its descriptor, subprocess.DEVNULL or None; got {stderr}")
    return os.dup(2 if stderr is None else stderr if isinstance(stderr, int) else stderr.fileno())
