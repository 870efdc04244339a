"""The example with torchft: a replica is killed inside an exchange, the other continues alone, and the
first returns.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import pytest

# With `make faults`: when replicas see each other is torchft's to decide, and now and then that takes it minutes.
pytestmark = [pytest.mark.story, pytest.mark.campaign]

HERE = Path(__file__).parent
SERVE = """
import sys
from torchft.coordination import LighthouseServer
server = LighthouseServer("[::]:0", 1, join_timeout_ms=20000, heartbeat_timeout_ms=4000)
print(server.address(), flush=True)
sys.stdin.read()
"""


@contextmanager
def lighthouse() -> Iterator[str]:
    """Start a lighthouse and return its address; it ends with its standard input."""
    command = [sys.executable, "-c", SERVE]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


@contextmanager
def replica(number: int, folder: Path, address: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(HERE / "torchft_ranks.py"), str(number), str(folder), *words]
    env = {**os.environ, "TORCHFT_LIGHTHOUSE": address, "OMP_NUM_THREADS": "1"}
    with (folder / f"{number}{''.join(words)}.log").open("w") as errors:
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=env, text=True)
        try:
            yield running
        finally:
            running.kill()
            running.wait()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.timeout(600)
def test_a_replica_is_killed_inside_an_exchange_and_comes_back(tmp_path: Path) -> None:
    with lighthouse() as address, replica(0, tmp_path, address) as stays:
        with replica(1, tmp_path, address, "killed") as dies:
            dies.wait(200)
        until(lambda: (tmp_path / "alone").exists() or stays.poll() is not None)
        with replica(1, tmp_path, address) as back:
            ends = [one.communicate(timeout=200)[0] for one in (stays, back)]
        logs = {
            log.name: [line for line in log.read_text().splitlines() if "INFO" not in line]
            for log in tmp_path.glob("*.log")
        }
        assert [dies.returncode, stays.returncode, back.returncode] == [-9, 0, 0], logs
    models = [re.search(r"60 steps, 2 replicas at the end, model (\w{12})", end) for end in ends]
    assert models[0][1] == models[1][1]
    told = json.loads(ends[0].splitlines()[-1])
    assert [size for size, _ in groupby(told["sizes"])][-2:] == [1, 2]  # a group may be made twice for one change
    assert set(told["put_back"]) == {True}
