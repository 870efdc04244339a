"""How the workers come by one plan: its delegate shares it, or all remember the last one.

A remembered plan is a fact of the state, f64[1, 2 + m]: | layout and n, in 32 bits | window | the m numbers shared |.
A window is a run of `every` steps, from a multiple of it on. A plan of another layout, another number of workers or
another window is no plan, and everybody sees so alike: a checkpoint of a run that was larger may be loaded as it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from gradwire.ask import Broadcast
from gradwire.exchange.protocol import State, tensor
from gradwire.layout import Turn


def nothing() -> State:
    """No plan yet: f64[1, 0], on the CPU, where plans are read.

    float64 whatever the vectors, because budgets are whole numbers; two axes, because [d] would be one per coordinate.
    """
    return {"plan": torch.zeros((1, 0), dtype=torch.float64)}


async def agree(
    make: Callable[[], list[int]],
    fits: Callable[[list[int]], bool],
    length: int,
    every: int,
    state: State,
    turn: Turn,
    device: torch.device,
) -> list[int]:
    """Recall the numbers of this window's plan, or let its delegate `make` that many and broadcast them, int32.

    What is recalled and does not fit (a checkpoint may have been tampered with) is no plan.

    The delegates take turns by windows: were it (t mod n) at the steps t that share, then with every = n it would
    always be rank 0, whose norms alone would count.
    """
    stamp = [zlib.crc32(turn.layout.digest, turn.size), turn.step // every]
    if every > 1:
        known = [int(number) for number in cast(list[float], tensor(state, "plan").flatten().tolist())]
        if known[:2] == stamp and len(known) == 2 + length and fits(known[2:]):
            return known[2:]
    delegate = turn.step // every % turn.size
    message = make() if turn.rank == delegate else [0] * length
    answer: Tensor = await Broadcast(torch.tensor(message, dtype=torch.int32, device=device), delegate)
    heard = cast(list[int], answer.tolist())
    if every > 1:
        state["plan"] = torch.tensor([[*stamp, *heard]], dtype=torch.float64)
    return heard
