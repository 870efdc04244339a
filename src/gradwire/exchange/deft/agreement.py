"""How the workers agree on one plan: a delegate broadcasts it, or all reuse the last one.

The last plan is replicated state, f64[1, 2 + m]: | hash of layout and n, 32 bits | window | the m numbers broadcast |.
A window is `every` steps, starting at a multiple of `every`. All workers ignore a plan of another layout, number of
workers or window, so a checkpoint of a larger run may be loaded as it is.
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
    """Return the state without a plan: f64[1, 0], on the CPU, where plans are read.

    It is float64 for any dtype of the vectors, because budgets are integers, and has two axes, because a tensor [d]
    would count as one value per coordinate.
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

    Numbers in the state that do not fit are ignored, because a checkpoint may have been tampered with.

    The delegate is window mod n. If it were t mod n at the steps t that broadcast, then with every = n it would always
    be rank 0, and only rank 0's norms would count.

    Args:
        make: computes the delegate's numbers.
        fits: whether numbers are a valid plan.
        length: how many numbers there are.
        every: steps of a window.
        state: holds the last plan, if `every` is above 1; it is replaced in place.
        turn: the worker's turn.
        device: the device of the message.

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
