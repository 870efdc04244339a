"""Play a story: real processes on loopback, with a time limit, and none left behind.

Ranks are forked from a server that has imported torch and gradwire once, because importing takes most of a start.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import multiprocessing.connection
import os
import runpy
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from gradwire import net
from gradwire.net import links

HERE = Path(__file__).parent
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch", "torch.distributed", "torch.nn.parallel", "gradwire", "pytest"])


def play(
    name: str, *arguments: str, ranks: int, seconds: float = 120.0, group: float = 60.0, lives: str = "ranks.py"
) -> list[dict[str, Any]]:
    """Run a function of a file on every rank. All ranks must end well. Returns what they printed, by rank."""
    codes, printed, complaints = watch(name, *arguments, ranks=ranks, seconds=seconds, group=group, lives=lives)
    assert codes == [0] * ranks, f"{name} ended with {codes}:\n{complaints}"
    return sorted(printed, key=lambda line: line["rank"])


def watch(
    name: str,
    *arguments: str,
    ranks: int,
    seconds: float,
    group: float,
    lives: str = "ranks.py",
    rate: str | None = None,
    grace: float | None = None,
) -> tuple[list[int], list[dict[str, Any]], str]:
    """Run a function of a file on every rank. Returns exit codes, the JSON lines printed, and standard error.

    The ranks are on loopback, or on links of a rate. After a rank has failed, the others have `grace` more seconds,
    within the limit of `seconds`.
    """
    if rate is not None:
        return _watch_links([str(HERE / lives), name, *arguments], ranks, seconds, group, rate, grace or seconds)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as printed:
        env = _environment(folder, group)
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # the server's threads are decided when it imports torch
        starts = [
            SERVER.Process(
                target=_live,
                args=(str(HERE / lives), [name, *arguments], {**env, **place}, f"{printed}/{rank}"),
            )
            for rank, place in enumerate(links.environments(ranks, None))
        ]
        codes = _run(starts, seconds, grace or seconds)
        out = [Path(f"{printed}/{rank}.out").read_text() for rank in range(ranks)]
        errors = [f"[rank{rank}] {Path(f'{printed}/{rank}.err').read_text()[-3000:]}" for rank in range(ranks)]
    lines = [json.loads(line) for text in out for line in text.splitlines() if line.startswith("{")]
    return codes, lines, "\n".join(errors)


def _environment(folder: str, group: float) -> dict[str, str]:
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"STORY_FOLDER": folder, "GROUP_TIMEOUT": str(group), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own}


def _run(processes: Sequence[ForkServerProcess], seconds: float, grace: float) -> list[int]:
    """Start all processes and wait for all. Kills those that remain after the time limit (TimeoutError) or a failure's
    grace.
    """
    deadline, patience = time.monotonic() + seconds, float("inf")
    try:
        for process in processes:
            process.start()
        while (left := [process for process in processes if process.exitcode is None]) and patience > 0:
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {seconds:g} s the ranks' exit codes are {_codes(processes)}")
            multiprocessing.connection.wait([process.sentinel for process in left], timeout=0.2)
            if any(process.exitcode for process in processes):
                patience = min(patience, grace) - 0.2
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()
    return [code for code in _codes(processes) if code is not None]


def _codes(processes: Sequence[ForkServerProcess]) -> list[int | None]:
    return [process.exitcode for process in processes]


def _watch_links(
    words: list[str], ranks: int, seconds: float, group: float, rate: str, grace: float
) -> tuple[list[int], list[dict[str, Any]], str]:
    """Run the ranks in network namespaces. They are not forked: a forked rank would see this process's network."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        commands, env = [[sys.executable, *words]] * ranks, _environment(folder, group)
        with net.launch(commands, rate, env=env, stderr=errors, grace=grace) as cluster:
            codes = cluster.wait(timeout=seconds)
            lines = list(cluster.lines())
        errors.seek(0)
        return codes, [json.loads(line) for line in lines if line.startswith("{")], errors.read()[-6000:]


def _live(script: str, arguments: list[str], env: Mapping[str, str], printed: str) -> None:
    """Run the script as a rank's own program, up to the end of its interpreter."""
    os.environ.clear()
    os.environ.update(env)
    for number, stream in ((1, "out"), (2, "err")):
        with open(f"{printed}.{stream}", "w") as file:
            os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.argv, sys.path[0:0] = [script, *arguments], [str(HERE)]
    runpy.run_path(script, run_name="__main__")
    threading._shutdown()
    atexit._run_exitfuncs()
