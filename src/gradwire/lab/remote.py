"""The life of one rank: it joins the others, works, says what it has to say as JSON lines, and leaves."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist


def live(
    work: Callable[[], None],
    seconds: float,
    refused: tuple[type[Exception], ...],
    complain: Callable[[str], None] = lambda sentence: say("error", message=sentence),
    threads: int | None = 1,
) -> NoReturn:
    """Join a gloo group whose calls time out after so many seconds, work, and end the process.

    An exception that is one of `refused` means bad input: one sentence to `complain`, which by default tells of an
    `error` event, and exit code 2. `threads` is None where it is not ours to say how many there are.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    dist.init_process_group("gloo", timeout=timedelta(seconds=seconds))
    code = 0
    try:
        work()
    except refused as error:
        complain(str(error))
        code = 2
    dist.destroy_process_group()
    # Not by way of the interpreter's end: there torch 2.13 aborts one process in fifty on a busy machine ("terminate
    # called without an active exception"), plain DDP without a hook as well. All is said and written by now.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def say(event: str, **facts: Any) -> None:
    """Print an event as one JSON object, on rank 0 or if it is an error."""
    if dist.get_rank() == 0 or event == "error":
        print(json.dumps({"event": event, **facts}), flush=True)
