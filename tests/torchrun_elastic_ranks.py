"""Run examples/elastic.py and be killed at one of `MOMENTS`: `torchrun ... torchrun_elastic_ranks.py MOMENT FOLDER`."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

import gradwire as gw
from gradwire.ask import Ask
from gradwire.transport.process import Process

saving = import_module("gradwire.folder.save")
EXAMPLE = Path(__file__).parents[1] / "examples" / "elastic.py"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(call: int, act: Callable[[], None], go_on: Callable) -> Callable:
    """Return `go_on` with `act` before one of its calls."""
    calls = []

    def counted(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == call:
            act()
        return go_on(*arguments, **options)

    return counted


def in_backward() -> None:
    """Be killed when the 25th loss has its gradient and the first parameter has not."""
    backward = torch.Tensor.backward
    count = []

    def hooked(loss: Tensor) -> None:
        count.append(1)
        if len(count) == 25:
            loss.register_hook(lambda gradient: die())
        backward(loss)

    torch.Tensor.backward = hooked


def in_an_exchange() -> None:
    """Be killed at the 25th collective of the engine's thread, which is that of the 25th step."""
    begin, count = Process.begin, []

    def hooked(process: Process, ask: Ask) -> Tensor:
        count.append(threading.current_thread().name == "gradwire")
        if sum(count) == 25:
            die()
        return begin(process, ask)

    Process.begin = hooked


def while_saving() -> None:
    """Be killed with half a file of the third save written."""
    write, count = saving.write_whole, []

    def half(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
        count.append(1)
        if len(count) == 3:
            with open(f"{path}.new", "wb") as file:
                file.write(b"half")
                file.flush()
                die()
        write(path, fill)

    saving.write_whole = half


def between_steps() -> None:
    torch.optim.SGD.zero_grad = at_call(38, die, torch.optim.SGD.zero_grad)


def at_the_end() -> None:
    gw.Hook.close = at_call(1, die, gw.Hook.close)


def stops(here: str, folder: Path, world: int) -> None:
    """Stop at the 15th step until the agents start other workers: the rank that leaves if there are two, the one that
    stays if it is alone, first or again.
    """
    once = folder / "two"
    mark = {"leaves": once, "stays": folder / "alone" if once.exists() else None}[here]

    def stop() -> None:
        if mark is not None:
            mark.touch()
        time.sleep(200)

    if world == {"leaves": 2, "stays": 1}[here]:
        torch.optim.SGD.zero_grad = at_call(15, stop, torch.optim.SGD.zero_grad)


MOMENTS = {act.__name__: act for act in (in_backward, in_an_exchange, while_saving, between_steps, at_the_end)}

if __name__ == "__main__":
    torch.set_num_threads(1)
    moment = sys.argv[1]
    if moment in ("leaves", "stays"):
        stops(moment, Path(sys.argv[2]), int(os.environ["WORLD_SIZE"]))
    elif moment in MOMENTS and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        MOMENTS[moment]()
    sys.argv[1:] = [sys.argv[2]]
    runpy.run_path(str(EXAMPLE), run_name="__main__")
