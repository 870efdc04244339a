"""Play a story: real processes on loopback or on links, with a time limit, none of them left behind."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from gradwire import net

HERE = Path(__file__).parent


def play(
    name: str, *arguments: str, ranks: int, seconds: float = 120.0, group: float = 60.0, lives: str = "ranks.py"
) -> list[dict[str, Any]]:
    """Run a function of a file of lives on every rank; all must end well. What they printed, by rank."""
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
    """Run a function of a file of lives on every rank: exit codes, JSON lines printed, standard error.

    On loopback, or on links of a rate. When a rank has failed the others have `grace` seconds, at most all of them.
    """
    command = [sys.executable, str(HERE / lives), name, *arguments]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {"STORY_FOLDER": folder, "GROUP_TIMEOUT": str(group), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        with net.launch(
            [command] * ranks, rate, env={**os.environ, **env}, stderr=errors, grace=grace or seconds
        ) as cluster:
            codes = cluster.wait(timeout=seconds)
            lines = list(cluster.lines())
        errors.seek(0)
        return codes, [json.loads(line) for line in lines if line.startswith("{")], errors.read()[-6000:]
