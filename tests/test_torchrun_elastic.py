"""The elastic example under torchrun: whenever a worker is killed, the result is that of an uninterrupted run."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.story

HERE = Path(__file__).parent
MOMENTS = {
    "in_backward": 20,
    "in_an_exchange": 20,
    "while_saving": 20,
    "between_steps": 30,
    "at_the_end": 60,
}
"""When a worker is killed, and the step from which the run goes on."""


@contextmanager
def torchrun(moment: str, folder: Path, log: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run an agent and its workers; the context's end ends those that still run."""
    command = [sys.executable, "-m", "torch.distributed.run", "--max-restarts", "2", "--monitor-interval", "0.1"]
    command += [*options, str(HERE / "torchrun_elastic_ranks.py"), moment, str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with log.open("wb") as out:
        running = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)
        try:
            yield running
        finally:
            running.terminate()
            running.wait()


def ends(log: Path) -> list[tuple[int, int, str]]:
    """Return what ranks print at their end: the first step, the last one, and the model."""
    found = re.findall(r"rank \d of \d: steps (\d+) to (\d+), model ([0-9a-f]{12})", log.read_text())
    return [(int(start), int(end), model) for start, end, model in found]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, subprocess.Popen[bytes]]]]:
    """Run once for each moment, all in parallel because starting takes most of the time. Yields logs and processes."""
    folder, options = tmp_path_factory.mktemp("killed"), ("--standalone", "--nproc-per-node", "2")
    with ExitStack() as stack:
        runs = {}
        for moment in MOMENTS:
            (folder / moment).mkdir()
            log = folder / f"{moment}.log"
            runs[moment] = log, stack.enter_context(torchrun(moment, folder / moment, log, *options))
        yield runs


@pytest.mark.campaign
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("killed")  # they run meanwhile
def test_agents_leave_and_join(tmp_path: Path) -> None:
    """There are two agents, one, and two again; all workers agree at the end."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    rendezvous = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "agents")
    rendezvous += ("--rdzv-conf", "last_call_timeout=2,keep_alive_interval=1,keep_alive_max_attempt=15")
    options = ("--nnodes", "1:2", "--nproc-per-node", "1", *rendezvous)
    logs = [tmp_path / f"{name}.log" for name in ("stays", "leaves", "joins")]
    with torchrun("stays", tmp_path, logs[0], *options) as stays:
        wait_for(lambda: listens(port), logs)  # who comes first keeps the rendezvous
        with torchrun("leaves", tmp_path, logs[1], *options):
            wait_for((tmp_path / "two").exists, logs)
        wait_for((tmp_path / "alone").exists, logs)
        with torchrun("joins", tmp_path, logs[2], *options) as joins:
            assert [stays.wait(300), joins.wait(300)] == [0, 0], [log.read_text() for log in logs]
    first, second = (ends(log)[-1] for log in (logs[0], logs[2]))
    assert first == second
    assert first[:2] == (20, 60)


@pytest.mark.timeout(600)
def test_a_worker_is_killed_at_any_moment(killed: dict[str, tuple[Path, subprocess.Popen[bytes]]]) -> None:
    """The model equals that of the run that was killed after its last step."""
    for log, running in killed.values():
        assert running.wait(300) == 0, log.read_text()
    whole, *_ = ends(killed["at_the_end"][0])
    assert whole[:2] == (0, 60)
    for moment, (log, _) in killed.items():
        assert ends(log)[-2:] == [(MOMENTS[moment], 60, whole[2])] * 2, (moment, log.read_text())


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", port)) == 0


def wait_for(come: Callable[[], bool], logs: list[Path]) -> None:
    deadline = time.monotonic() + 300
    while not come():
        assert time.monotonic() < deadline, [log.read_text() for log in logs if log.exists()]
        time.sleep(0.1)
