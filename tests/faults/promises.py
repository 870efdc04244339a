"""The promises that must hold after every fault: law, agreement, end, resume, nothing left."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from trial import Trial

NEAR = 1e-6
"""Of the largest value: float32 sums of a dozen steps, each rounded to 6e-8."""


def law(trial: Trial, within: float = NEAR) -> float:
    """Check the law. With EF: given + mean error = owed. With shifts: the mean shift is the mean of the shifts. Without
    memory: given = owed.

    Returns the largest deviation, relative to the largest value.
    """
    off = [0.0]
    memory, names = trial.hook.state_dict()["memory"], list(trial.trained())
    for name, owed, given in zip(names, trial.owed, trial.given, strict=True):
        parts = {path.removeprefix("memory."): value for path, value in memory[name].items()}
        if "h" in parts:
            mean, told = trial.mean(parts["h"]), parts["mean_h"].double()
            base = largest(mean, told, trial.mean(parts["h"].abs()), given)  # rounded when it was largest
            off.append(near(mean, told, base, f"mean shift of {name}", within))
            continue
        sent = given + (trial.mean(parts["error"].view_as(given)) if "error" in parts else 0)
        everything = owed.clone()
        dist.all_reduce(everything)
        wanted = trial.cut(everything)
        base = largest(wanted, *trial.parts()) if trial.setting.door == "local" else largest(wanted, given)
        off.append(near(sent, wanted, base, f"mass of {name}", within))
    return max(off)


def near(a: Tensor, b: Tensor, base: float, what: str, within: float) -> float:
    off = (a - b).abs().max().item() / max(base, 1e-30) if a.numel() else 0.0
    assert off <= within, f"{what} is off by {off:.1e} of the largest, which is {base:.1e}"
    return off


def largest(*found: Tensor) -> float:
    return max((each.abs().max().item() for each in found if each.numel()), default=0.0)


def agreement(trial: Trial) -> None:
    """All workers hold the same parameters, bit for bit; with local steps, after the end of the round."""
    trial.end_round()
    mine = torch.cat([each.flatten() for each in trial.parts()])
    group = None if trial.between is None else trial.between.get_group()
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(every, mine, group=group)
    assert all(torch.equal(other, mine) for other in every), "the ranks' parameters differ"
    assert all(bool(each.isfinite().all()) for each in trial.parts()), "parameters are not finite"


def resume(trial: Trial, first: int) -> None:
    """The next three steps equal those of another trial that starts from a file."""
    other = trial.resumed(trial.saved())
    for number in range(first, first + 3):
        for each in (trial, other):
            each.step(number)
    assert all(torch.equal(a, b) for a, b in zip(trial.parts(), other.parts(), strict=True)), "a resumed run differs"
    assert same(trial.hook.state_dict()["memory"], other.hook.state_dict()["memory"]), "a resumed memory differs"
    other.close()


def same(a: dict, b: dict) -> bool:
    pairs = [(part, b[name][path]) for name in a.keys() & b.keys() for path, part in a[name].items()]
    return a.keys() == b.keys() and all(torch.equal(one, other) for one, other in pairs)


@contextmanager
def unchanged(trial: Trial) -> Iterator[None]:
    """Check that this context changes neither memory nor step."""
    before = trial.hook.state_dict()
    yield
    after = trial.hook.state_dict()
    assert (before["step"], before["seed"]) == (after["step"], after["seed"]), "the step has changed"
    assert same(before["memory"], after["memory"]), "the memory has changed"


@contextmanager
def nothing_left() -> Iterator[None]:
    """Check that there is no thread and no descriptor more than before."""
    gc.collect()
    before = held()
    yield
    gc.collect()
    after = held()
    assert all(now <= then for now, then in zip(after, before, strict=True)), f"threads, descriptors: {before}, {after}"


def held() -> tuple[int, int, int]:
    """Count Python's threads, the process's threads, and its descriptors."""
    return threading.active_count(), len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


def refused(act: Callable[[], object], *errors: type[Exception]) -> str:
    """Check that every rank refuses in one sentence."""
    with pytest.raises(errors or ValueError) as refusal:
        act()
    words = str(refusal.value)
    assert words, "refused without a word"
    assert "\n" not in words.strip(), words
    return words
