"""How the workers agree on one plan: a delegate broadcasts it, or all reuse the last one.

The last plan is replicated state, f64[1, 2 + m]: | layout and n, in 32 bits | window | the m numbers broadcast |. A
window is `every` steps, from a multiple of it on. A plan of another layout, number of workers or window is ignored, on
all workers alike, so the checkpoint of a larger run may be loaded as it is.
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


def no_plan() -> State:
    """No plan yet: f64[1, 0], on the CPU, where plans are read.

    float64 for any dtype of the vectors, because budgets are whole numbers; two axes, because a tensor [d] would count
    as one value per coordinate.
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
    """Return the numbers of this window's plan: those in the state, or `length` new ones that its delegate broadcasts.

    Numbers in the state that do not fit are ignored: a checkpoint may have been tampered with.

    The delegate changes with the window. If it were t mod n at the steps t that broadcast, then with every = n it would
    always be rank 0, and only rank 0's norms would count.

    Raises:
        ValueError: the delegate's numbers do not fit.
    """
    stamp = [zlib.crc32(turn.layout.digest, turn.size), turn.step // every]
    if every > 1:
        known = [int(number) for number in cast(list[float], tensor(state, "plan").flatten().tolist())]
        if known[:2] == stamp and len(known) == 2 + length and fits(known[2:]):
            return known[2:]
    delegate = turn.step // every % turn.size
    message = make() if turn.rank == delegate else [0] * length
    answer: Tensor = await Broadcast(torch.tensor(message, dtype=torch.int32, device=device), delegate)
    received = cast(list[int], answer.tolist())
    if not fits(received):
        raise ValueError(f"deft: the plan that rank {delegate} has broadcast at step {turn.step} is none of this model")
    if every > 1:
        state["plan"] = torch.tensor([[*stamp, *received]], dtype=torch.float64)
    return received
