"""Start a cluster: check what is asked, find the programs, hand the plan to the keeper."""

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
START_SECONDS = 60.0  # two hundred links take a few


def launch(
    commands: Sequence[Sequence[str]],
    rate: str | int | None = None,
    env: Mapping[str, str] = {},
    grace: float = 30.0,
    stderr: int | IO[Any] | None = None,
) -> Cluster:
    """Start `commands[r]` as rank r, all on links of `rate` (text, or bits per second) or, if None, on loopback.

    Every rank gets the caller's environment, `env` on top, and above both RANK, WORLD_SIZE, LOCAL_RANK (0),
    MASTER_ADDR, MASTER_PORT, GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME and GRADWIRE_INTERFACE. On links it sees no other
    network, nothing under /run, and, unless root runs this, itself as root. When a rank has failed the others have
    `grace` seconds before they are killed; what a rank leaves running is killed when the last rank has ended. Standard
    error goes to the caller's, to the file `stderr`, or nowhere (subprocess.DEVNULL).

    A link lets the first 4 KiB (above 65 Mbit/s, the first half of a millisecond) after a pause pass unshaped.

    Refused if the links cannot be had; ValueError if what is asked makes no sense.
    """
    asked = [list(command) for command in commands]
    check(asked, env, grace)
    bits = parse_rate(rate) if isinstance(rate, str) else None if rate is None else within(rate, rate)
    alone: list[str] = []
    steps: list[links.Step] = []
    if bits is not None:
        programs = needed_programs()
        alone, steps = programs.alone(), links.steps(len(asked), bits, programs)
        asked = [[*programs.inside(rank), *command] for rank, command in enumerate(asked)]
    plan = Plan(steps, asked, links.environments(len(asked), bits), grace)
    cluster = start_keeper(alone, plan, {**os.environ, **env}, stderr, links.addresses(len(asked), bits))
    try:
        cluster.await_links(START_SECONDS)
    except BaseException:
        cluster.kill()
        raise
    return cluster


@functools.cache
def refusal() -> str | None:
    """Return None if links of a chosen rate can be had here, else one sentence that says why not.

    Lays two links and starts two processes on them, once; takes a fraction of a second.
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
    """Raise ValueError if the commands or the grace make no sense."""
    if not 1 <= len(commands) <= links.MOST_RANKS:
        raise ValueError(f"a cluster has 1 to {links.MOST_RANKS} ranks, a command each; got {len(commands)} commands")
    path = env.get("PATH", os.environ.get("PATH"))
    for rank, command in enumerate(commands):
        if not command:
            raise ValueError(f"the command of rank {rank} is empty")
        if shutil.which(command[0], path=path) is None:
            raise ValueError(f"the command of rank {rank} starts with {command[0]!r}, which is no program here")
    if not 0 <= grace < math.inf:
        raise ValueError(f"grace must be a finite number of seconds, at least 0; got {grace}")


def needed_programs() -> links.Programs:
    """Find the programs; Refused naming those that are missing."""
    try:
        return links.find_programs()
    except FileNotFoundError as error:
        raise Refused(f"links of a chosen rate cannot be had here: {error}") from None


def start_keeper(
    alone: list[str], plan: Plan, env: dict[str, str], stderr: int | IO[Any] | None, address: list[str]
) -> Cluster:
    """Start the keeper by way of the command `alone`, and give it the plan."""
    errors = target(stderr)
    obeyed, orders = os.pipe()
    readers, writers = zip(*(os.pipe() for _ in ["events", *plan.commands]), strict=True)
    theirs = [errors, *writers[1:]]
    try:
        keeper = subprocess.Popen(
            # Isolated and without site: the caller's PYTHON* variables are for the ranks.
            [*alone, sys.executable, "-I", "-S", KEEPER, *map(str, theirs)],
            stdin=obeyed,
            stdout=subprocess.DEVNULL,
            stderr=writers[0],  # where a failing `unshare` complains, and the keeper tells its events
            pass_fds=theirs,
            env=env,
            start_new_session=True,  # a key pressed at the terminal is for the caller alone, who then kills the rest
        )
    except BaseException:
        close([orders, *readers])
        raise
    finally:
        close([errors, obeyed, *writers])
    cluster = Cluster(keeper, orders, readers[0], readers[1:], address)
    cluster.order(json.dumps(plan._asdict()).encode())
    return cluster


def close(descriptors: Sequence[int]) -> None:
    """Close file descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)


def target(stderr: int | IO[Any] | None) -> int:
    """Return a file descriptor, for us to close, of where standard error is to go."""
    if stderr == subprocess.DEVNULL:
        return os.open(os.devnull, os.O_WRONLY)
    if isinstance(stderr, int) and stderr < 0:
        raise ValueError(f"stderr must be a file, its descriptor, subprocess.DEVNULL or None; got {stderr}")
    return os.dup(2 if stderr is None else stderr if isinstance(stderr, int) else stderr.fileno())
