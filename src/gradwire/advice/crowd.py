"""Timing work that shares its core: the clock to use, and a competing thread that loads core and caches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

WIDTH = 512
"""Side of the matrices that the neighbour multiplies: three of them are 3 MiB, more than most level-2 caches hold."""


def clock(device: torch.device) -> Callable[[], float]:
    """Return the clock by which to time work on a device, in seconds.

    On a CPU with one torch thread it is that thread's CPU time, which other load does not change. Otherwise it is wall
    time; on a GPU it waits first for all queued work.
    """
    if device.type == "cuda":
        return lambda: _when_done(device)
    return time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def _when_done(device: torch.device) -> float:
    torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def neighbour(wanted: bool) -> Generator[None]:
    """Run a second thread that multiplies matrices during the block, if `wanted`, as a training model would."""
    if not wanted:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_multiply, args=(over,), name="gradwire-neighbour", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _multiply(over: threading.Event) -> None:
    left, right = torch.ones(WIDTH, WIDTH), torch.ones(WIDTH, WIDTH)
    product = torch.empty(WIDTH, WIDTH)
    while not over.is_set():
        torch.mm(left, right, out=product)
