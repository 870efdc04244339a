"""The functions that ranks run in the stories about asks; see ranks.py."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

import gradwire as gw
from gradwire.ask import Axis, among
from gradwire.transport.process import Process

DTYPES = ("int8", "uint8", "int32", "int64", "float16", "bfloat16", "float32", "float64")
"""What travels: bytes, counts, values."""


def brought(dtype: str, rank: int) -> Tensor:
    """Return a rank's tensor: hundreds, whose sum wraps around in int8, plus the rank's number to tell ranks apart."""
    return torch.tensor([100, 90 + 10 * rank, 3 - rank]).to(getattr(torch, dtype))


async def ask_all(x: Tensor) -> dict[str, Tensor]:
    """Return the answers to every kind of ask when each of two workers brings an x [3]."""
    return {
        "sum": await gw.AllReduce(x.clone()),
        "max": await gw.AllReduce(x.clone(), op="max"),
        "gather": await gw.AllGather(x.clone()),
        "broadcast": await gw.Broadcast(x.clone(), 1),
        "route": await gw.AllToAll(torch.stack([x, x + 1])),
    }


def answers_of_every_dtype() -> dict[str, dict[str, object]]:
    """Return every answer's dtype and values over a process group."""
    rank, process = dist.get_rank(), Process(dist.group.WORLD)
    return {dtype: told(process.run(ask_all(brought(dtype, rank)))) for dtype in DTYPES}


async def ask_along(rank: int, *axes: Axis) -> list[Tensor]:
    """Return the answers to every kind of ask in the groups along these axes, of two workers each."""
    x = torch.tensor([1.0, 2.0 + rank, 10.0 * rank])
    asks = (
        gw.AllReduce(x),
        gw.AllReduce(x, op="max"),
        gw.AllGather(x),
        gw.Broadcast(x, 1),
        gw.AllToAll(torch.stack([x, x + 1])),
    )
    return [await among(ask, axis) for axis in axes for ask in asks]


def groups_answer() -> dict[str, object]:
    """Say for four ranks whether groups answer as in lockstep over a process group, and how often each
    kind was asked.
    """
    axes, rank, process = (Axis(2), Axis(2, 2)), dist.get_rank(), Process(dist.new_group())
    found = [process.run(ask_along(rank, *axes)) for _ in range(2)][-1]
    wanted = gw.lockstep([ask_along(worker, *axes) for worker in range(4)])[rank]
    alike = all(torch.equal(mine, other) for mine, other in zip(found, wanted, strict=True))
    calls = [process.ledger.entries[kind].calls for kind in ("AllReduce", "AllGather", "Broadcast", "AllToAll")]
    process.run(_whole(rank))
    process.close()
    return {"alike": alike, "calls": calls}


async def _whole(rank: int) -> None:
    """Ask a group of all, and a group of one."""
    assert (await among(gw.AllReduce(torch.tensor([1.0])), Axis(4))).tolist() == [4.0]
    assert (await among(gw.AllReduce(torch.tensor([float(rank)])), Axis(1, 4))).tolist() == [rank]


def told(answers: dict[str, Tensor]) -> dict[str, object]:
    """Convert to JSON's types."""
    return {kind: [str(answer.dtype), answer.tolist()] for kind, answer in answers.items()}


APART = {"alike": (4, 0, 4, 0), "steps": (4, 0, 5, 0), "units": (4, 0, 4, 1), "far": (4, 0, 4 + 64, 3)}
"""Step and unit of rank 0, and of rank 1."""

SPECS = ("ef(topk(density=0.25))", "ef(cltk(density=0.25))", "diana(natural)")
"""The tag goes behind a gathered message, in a number of its own before a broadcast, and in one before everything."""


def guards_apart() -> dict[str, dict[str, str]]:
    """Return, by spec and case, what a rank hears if its peer is at another step or unit; "" if nothing is wrong."""
    return {spec: {case: guard_apart(spec, case) for case in APART} for spec in SPECS}


def guard_apart(spec: str, case: str) -> str:
    """Exchange one vector under the guard, at this rank's step and unit."""
    rank, process, layout = dist.get_rank(), Process(dist.group.WORLD), gw.Layout(["x"], [(64,)])
    guard, (step, unit) = gw.parse(f"guard({spec})"), APART[case][2 * rank : 2 * rank + 2]
    turn, state = gw.Turn(rank, 2, step, layout, seed=3, unit=unit), guard.init(layout)
    x = torch.linspace(-1, 1, 64) + rank
    made = guard.accumulate([x.clone()], state, turn)
    try:
        process.run(guard(x if made is None else made, state, turn))
    except ValueError as error:
        return str(error)
    return ""
