"""The functions that the ranks of the soak run: `python soak_ranks.py soak METHOD STEPS UNITS MINUTES`."""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from promises import agreement, held, law
from ranks import loss, main, model
from soak import EVERY, METHODS
from torch import Tensor, nn
from trial import Setting, Trial

WIDTH = 16
DRIFT = 1e-4
"""Of the largest value: ten thousand steps round ten thousand times."""


class Stumble(Exception):
    pass


class Stumbling:
    """A loss that fails halfway through backward when it is told to."""

    def __init__(self) -> None:
        self.now = False

    def __call__(self, net: nn.Module, step: int, rank: int) -> Tensor:
        value = loss(net, step, rank)
        if self.now:
            value.register_hook(self._fail)
        return value

    def _fail(self, _: Tensor) -> None:
        raise Stumble


def soak(method: str, steps: str, units: str, minutes: str) -> dict[str, object]:
    """Train, with a fault every few hundred steps. Returns what has grown meanwhile, and the largest deviation from the
    law.

    The run ends earlier if the minutes are over.
    """
    door, spec = METHODS[method]
    # A layer of 16 x 16 and its bias fill a unit; the first and the last layer share one with a neighbour.
    make = partial(model, width=WIDTH, depth=int(units))
    options: dict[str, object] = {"bucket_mb": 4 * WIDTH * (WIDTH + 1) / 2**20}
    trial = Trial(Setting(door, spec, make, Stumbling(), options=options, joined=True))
    trial.optimizer.param_groups[0]["lr"] = 1e-3
    faults = [act for act in FAULTS if door != "DDP" or act is not stumbles]
    chance, many, counts, warm = random.Random(1), int(steps), 0, {}
    pause = [min(steps, max(many // 8, 1)) for steps in EVERY]
    due, deadline, done = chance.randint(*pause), time.monotonic() + 60 * float(minutes), 0
    for number in range(many):
        if number % 50 == 0 and late(deadline):
            break
        if number == many // 10:
            warm = measured()
        if number == due:
            faults[counts % len(faults)](trial, number)
            due, counts = number + chance.randint(*pause), counts + 1
        trial.step(number % 997)
        done += 1
    assert warm, f"the minutes were over after {done} steps, a tenth of the run is {many // 10}"
    agreement(trial)
    now, off = measured(), law(trial, DRIFT)
    trial.close()
    grown = {what: now[what] - warm[what] for what in now}
    return {"steps": done, "door": door, "units": len(trial.hook.layouts), "faults": counts, "law": off, "grown": grown}


def late(deadline: float) -> bool:
    """Say whether the time is over, by rank 0's clock."""
    word = torch.tensor(float(time.monotonic() > deadline))
    dist.broadcast(word, 0)
    return bool(word)


def measured() -> dict[str, float]:
    """Measure resident megabytes, descriptors and threads."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    _, threads, descriptors = held()
    return {"megabytes": pages * os.sysconf("SC_PAGE_SIZE") / 1e6, "descriptors": descriptors, "threads": threads}


def breaks(trial: Trial, number: int) -> None:
    """Put NaNs on one rank."""
    one = trial.rank == number % trial.size
    if trial.setting.door == "local":
        trial.poison = one
        for each in (number, number + 1):  # a round
            trial.step(each)
        trial.poison = False
    else:
        trial.step(number, factor=float("nan") if one else 1.0, update=False, counted=False)


def stumbles(trial: Trial, number: int) -> None:
    """Raise an exception in every rank's backward."""
    trial.setting.loss.now = True
    with pytest.raises(Stumble):
        trial.step(number, counted=False)
    trial.setting.loss.now = False
    trial.optimizer.zero_grad()


def looks(trial: Trial, number: int) -> None:
    """Take a snapshot in another thread of one rank."""
    thread = threading.Thread(target=trial.hook.state_dict)
    if trial.rank == number % trial.size:
        thread.start()
        trial.step(number)
        thread.join()
    else:
        trial.step(number)


def waits(trial: Trial, number: int) -> None:
    """Delay one rank."""
    time.sleep(0.3 if trial.rank == number % trial.size else 0.0)


def loads(trial: Trial, _: int) -> None:
    """Load a checkpoint of this very step, and one that is refused."""
    trial.hook.load_state_dict(trial.hook.state_dict())
    with pytest.raises(ValueError, match="checkpoint"):
        trial.hook.load_state_dict({} if trial.rank == 0 else trial.hook.state_dict())


FAULTS: tuple[Callable[[Trial, int], None], ...] = (breaks, stumbles, looks, waits, loads)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(globals(), *sys.argv[1:])
