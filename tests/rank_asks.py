"""What ranks do in the stories about asks: see ranks.py."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

import gradwire as gw
from gradwire.transport.process import Process

DTYPES = ("int8", "uint8", "int32", "int64", "float16", "bfloat16", "float32", "float64")
"""What travels: bytes, counts, values."""


def brought(dtype: str, rank: int) -> Tensor:
    """What a rank brings: hundreds, whose sum wraps around in int8, where the number of the rank tells them apart."""
    return torch.tensor([100, 90 + 10 * rank, 3 - rank]).to(getattr(torch, dtype))


async def ask_all(x: Tensor) -> dict[str, Tensor]:
    """The answers to every kind of ask that brings x [3] on each of two workers."""
    return {
        "sum": await gw.AllReduce(x.clone()),
        "max": await gw.AllReduce(x.clone(), op="max"),
        "gather": await gw.AllGather(x.clone()),
        "broadcast": await gw.Broadcast(x.clone(), 1),
        "route": await gw.AllToAll(torch.stack([x, x + 1])),
    }


def answers_of_every_dtype() -> dict[str, dict[str, object]]:
    """Over a process group: every answer's dtype and values."""
    rank, process = dist.get_rank(), Process(dist.group.WORLD)
    return {dtype: told(process.run(ask_all(brought(dtype, rank)))) for dtype in DTYPES}


def told(answers: dict[str, Tensor]) -> dict[str, object]:
    """As JSON has it."""
    return {kind: [str(answer.dtype), answer.tolist()] for kind, answer in answers.items()}
