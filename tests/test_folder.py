"""States of all ranks in a folder: complete or refused; each rank gets its own back, or a merged one if the number
differs.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from story import play, watch

import gradwire as gw

LIVES = "folder_ranks.py"


@pytest.mark.story
def test_two_ranks_become_four_and_one(tmp_path: Path) -> None:
    """With the same number bit for bit; otherwise the mean is kept, up to half a unit in the last place of float32."""
    for line in play("become_four_and_one", str(tmp_path), ranks=4, lives=LIVES):
        back, *merged = line["result"]
        assert back == [0.0] * len(back)
        assert max(max(worst) for worst in merged) < 2**-24


@pytest.mark.story
def test_what_does_not_belong_together_is_refused_on_every_rank(tmp_path: Path) -> None:
    """Nothing changes and nothing hangs, also with a save in which a rank was killed."""
    killed = str(tmp_path / "killed")
    codes, *_ = watch("is_killed_while_saving", killed, ranks=2, seconds=60, group=20, lives=LIVES)
    assert codes[1] == -9
    assert codes[0] not in (0, -9)
    first, second = (line["result"] for line in play("refuses", str(tmp_path), killed, ranks=2, lives=LIVES))
    assert len(first) == len(second) >= 15
    assert not any("\n" in sentence for sentence in (*first, *second))


@dataclass
class Alone:
    """A hook of one process, without torch.distributed."""

    step: int = 0
    part: tuple[int, int] = (0, 1)
    process: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(rank=0, size=1))

    def state_dict(self, *, copy: bool = True) -> dict:
        memory = {"w": {"error": torch.full((300,), float(self.step))}}
        head = {"format": 1, "exchange": "EF(TopK(density=0.1))", "seed": 0, "step": self.step}
        return {**head, "rank": 0, "world_size": 1, "memory": memory}

    def load_state_dict(self, saved: dict) -> None:
        assert saved["memory"]["w"]["error"].eq(saved["step"]).all()
        self.step = saved["step"]


CALLS = ("open", "fsync", "replace", "unlink", "mkdir", "stat")


def dies_at(number: int, act: Callable[[], None]) -> int:
    """Act in a process that kills itself at this one of its file-system calls. Returns how it ended."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = [number]

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def counting(*args: object, **options: object) -> object:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)

        return counting

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    try:
        act()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("first", ["nothing", "a save", "a save of more ranks"])
def test_a_save_killed_at_any_call_leaves_the_old_one_a_refusal_or_the_new_one(tmp_path: Path, first: str) -> None:
    ends, seen = [], list[object]()
    for number in range(1, 100):
        folder, hook = tmp_path / str(number), Alone()
        if first != "nothing":
            gw.save(Alone(1), folder)
        if "more" in first:
            (folder / "gradwire-1.pt").write_bytes(b"of a run of two ranks")
        ends.append(dies_at(number, lambda folder=folder: gw.save(Alone(2), folder)))
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                seen.append(hook.step if gw.load(hook, folder) else len(warned))
            except ValueError as refusal:
                seen.append("refused" if "cut short" in str(refusal) and hook.step == 0 else str(refusal))
        gw.save(Alone(3), folder)
        assert gw.load(hook, folder)
        assert hook.step == 3
        assert {file.name for file in folder.iterdir()} == {"gradwire.json", "gradwire-0.pt"}
        if ends[-1] == 0:
            break
    assert ends == [-9] * (len(ends) - 1) + [0]
    assert len(ends) > 10
    old = 1  # the step of the old save; or one warning that there is nothing
    order = [old, "refused", 2]
    assert [order.index(what) for what in seen] == sorted(order.index(what) for what in seen)
    assert {*seen} == {*order}


def test_refusals_of_what_is_no_hook(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"takes what gradwire\.attach or gradwire\.local returned, got Linear"):
        gw.save(torch.nn.Linear(2, 2), tmp_path)
    with pytest.raises(ValueError, match="no hook was given"):
        gw.load([], tmp_path)


def test_a_folder_keeps_what_is_not_gradwires(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("a trainer's")
    (tmp_path / "optimizer-0.pt").write_text("a trainer's")
    for step in (4, 5):
        gw.save([Alone(step), Alone(step)], str(tmp_path))
        hooks = [Alone(), Alone()]
        assert gw.load(hooks, str(tmp_path))
        assert [hook.step for hook in hooks] == [step, step]
    assert len(list(tmp_path.iterdir())) == 4
