"""A neighbour: what it is like to share a core and its caches with a model that computes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

WIDTH = 512
"""Of the matrices that the neighbour multiplies: three of them are 3 MiB, more than most second-level caches hold."""


def clock(device: torch.device) -> Callable[[], float]:
    """By what work is timed: the seconds of its own thread if that is all that works, whatever else wants the core.

    On a GPU what has been queued is waited for.
    """
    if device.type == "cuda":
        return lambda: _when_done(device)
    return time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def _when_done(device: torch.device) -> float:
    torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def neighbour(wanted: bool) -> Generator[None]:
    """Meanwhile another thread of this process multiplies matrices, if that is wanted."""
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
