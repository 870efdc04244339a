"""Run examples/torchft_replicas.py and end inside an exchange: `python torchft_ranks.py REPLICA FOLDER [killed]`.

Prints its observations as one JSON line.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from pathlib import Path

import torch
import torchft
from elastic_ranks import ends_at, same

import gradwire as gw

WAITS = {0: "first", 12: "back"}
"""At which steps the survivor waits for the other one, which is killed between them."""

EXAMPLE = Path(__file__).parents[1] / "examples" / "torchft_replicas.py"


def watched(replica: int, folder: Path, *, killed: bool) -> dict[str, object]:
    """Run the example, and report how many replicas it had one after the other, and what failed."""
    told: dict[str, object] = {"sizes": [], "put_back": []}
    hooks: list[gw.Hook] = []
    before: list[dict] = []
    attach, regroup, quorum = gw.attach, gw.Hook.regroup, torchft.Manager.start_quorum
    report = torchft.Manager.report_error

    def attaches(*arguments: object, **options: object) -> gw.Hook:
        hooks.append(attach(*arguments, **options))
        return hooks[0]

    def regroups(hook: gw.Hook, group: gw.Members) -> None:
        regroup(hook, group)
        told["sizes"].append(group.size)
        if replica == 0 and told["sizes"][-2:] == [2, 1]:
            (folder / "alone").touch()
        if killed and group.size == 2:
            hook.process.begin = ends_at(hook.process.begin, 5)

    def starts(manager: torchft.Manager) -> None:
        if replica == 1:
            (folder / ("first" if killed else "back")).touch()
        if replica == 0 and manager.current_step() in WAITS:
            wait_for(folder / WAITS[manager.current_step()])
        if replica == 0 and manager.current_step() > max(WAITS) and told["sizes"][-1] == 1:
            time.sleep(0.5)  # who has come back is not counted at once; it is before the last step
        quorum(manager)
        before[:] = [hooks[0].state_dict()]

    def reports(manager: torchft.Manager, error: Exception) -> None:
        told["put_back"].append(bool(same(before[0], hooks[0].state_dict())) and hooks[0].step == before[0]["step"])
        report(manager, error)

    gw.attach, gw.Hook.regroup = attaches, regroups
    torchft.Manager.start_quorum, torchft.Manager.report_error = starts, reports
    sys.argv[1:] = [str(replica)]
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    return told


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 200
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(watched(int(sys.argv[1]), Path(sys.argv[2]), killed="killed" in sys.argv)), flush=True)
