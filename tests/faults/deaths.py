"""Faults that end a rank or delay it. Each needs a separate start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from cases import train
from promises import agreement, law
from torch import Tensor
from trial import DOORS, METHODS, Setting, Trial

from gradwire.ask import Ask

LOST = 3
"""The code of a rank that has lost another one."""


@dataclass(frozen=True)
class Death:
    """What happens to rank 1, and when. codes: how rank 1 and the others end. links: whether it needs slow links."""

    how: str
    phase: str
    codes: tuple[int, int]
    doors: tuple[str, ...] = DOORS
    links: bool = False
    quick: tuple[str, ...] = ()


DEATHS = {
    "kill -9 in forward": Death("kill", "forward", (-9, LOST)),
    "kill -9 as an exchange begins": Death("kill", "exchange", (-9, LOST), quick=("FSDP2",)),
    "kill -9 halfway through an exchange": Death("kill", "halfway", (-9, LOST), quick=("DDP",)),
    "kill -9 before the optimizer's step": Death("kill", "step", (-9, LOST)),
    "kill -9 while saving": Death("kill", "saving", (-9, LOST)),
    "an exception on one rank": Death("raise", "forward", (1, LOST)),
    "an exception in one rank's exchange": Death("raise", "exchange", (LOST, LOST), quick=("local",)),
    "sys.exit on one rank": Death("exit", "step", (5, LOST)),
    "SIGSTOP halfway through an exchange": Death("stop", "halfway", (-9, LOST)),
    "SIGSTOP for two seconds in forward": Death("pause", "forward", (0, 0)),
    "SIGSTOP for two seconds halfway through an exchange": Death("pause", "halfway", (0, 0), quick=("bare",)),
    "a link down for two seconds": Death("link", "halfway", (0, 0), links=True),
    "the program ends without close": Death("nothing", "end", (0, 0)),
}


def meets(door: str, method: str, name: str, _token: str) -> None:
    """Train; at step 4 the fault happens to rank 1. A rank that loses a peer says how long that took, and ends by
    itself.
    """
    death, rank = DEATHS[name], dist.get_rank()
    trial = Trial(Setting(door, METHODS[method]))
    train(trial, 0, 4)
    act = acts(death.how)
    if rank == 1:
        arm(trial, death.phase, act)
    started = time.monotonic()
    try:
        train(trial, 4, 8)
        if death.phase == "saving":
            torch.save(trial.saved(), os.path.join(os.environ["STORY_FOLDER"], f"whole{rank}.pt"))
            train(trial, 8, 12)
        agreement(trial)
        law(trial)
    except Exception as error:
        if death.codes == (0, 0) or (rank == 1 and death.codes[0] != LOST):
            raise
        lost = {"rank": rank, "error": str(error), "seconds": time.monotonic() - started}
        print(json.dumps(lost), flush=True)
        sys.exit(LOST)
    assert death.codes == (0, 0), "this rank has noticed nothing"
    print(json.dumps({"rank": rank, "seconds": time.monotonic() - started}), flush=True)
    sys.exit(0)  # without close, nor destroy_process_group


def acts(how: str) -> Callable[[], None]:
    me = os.getpid()

    def kill() -> None:
        os.kill(me, signal.SIGKILL)

    def stop() -> None:
        os.kill(me, signal.SIGSTOP)

    def pause() -> None:
        subprocess.Popen(["sh", "-c", f"sleep 2; kill -CONT {me}"])
        os.kill(me, signal.SIGSTOP)

    def link() -> None:
        name = os.environ["GRADWIRE_INTERFACE"]
        subprocess.run(["ip", "link", "set", "dev", name, "down"], check=True)
        subprocess.Popen(["sh", "-c", f"sleep 2; ip link set dev {name} up"])

    def leave() -> None:
        sys.exit(5)

    def fail() -> None:
        raise ValueError("a bad day")

    return {
        "kill": kill, "stop": stop, "pause": pause, "link": link, "exit": leave, "raise": fail, "nothing": lambda: None
    }[how]  # fmt: skip


def arm(trial: Trial, phase: str, act: Callable[[], None]) -> None:
    """Act once, when this phase begins."""
    if phase == "forward":
        trial.net.register_forward_pre_hook(lambda *_: act())
    elif phase == "step":
        trial.optimizer.register_step_pre_hook(lambda *_: act())
    elif phase == "saving":
        save, folder = torch.save, os.environ["STORY_FOLDER"]

        def cut_short(*arguments: object, **options: object) -> None:
            save(*arguments, **options)
            if str(arguments[-1]).startswith(os.path.join(folder, "hook")):
                act()

        torch.save = cut_short
    elif phase in ("exchange", "halfway"):
        answer, calls = trial.hook.process.begin, 0

        def begin(ask: Ask) -> Callable[[], Tensor]:
            nonlocal calls
            calls += 1
            if calls == (1 if phase == "exchange" else 3):
                act()
            return answer(ask)

        trial.hook.process.begin = begin
