"""Messages that all members of an island would send alike: each member sends one slice.

All s members of an island have the same ask to the other islands, with the same x. Member p sends the p-th of s slices
in a collective of the members p of all islands, and the island gathers the answers:

    x of the island   |  slice 0  |  slice 1  | ... | slice s - 1 |     the last one is padded with zeros
    between islands        member 0    member 1        member s - 1     the same ask, of a slice
    inside an island  |  answer 0 |  answer 1 | ... | answer s - 1 |    AllGather

Every member sends all of an x below SHORT bytes, because a second round trip would cost more than slices save.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gradwire.ask import AllGather, Ask, Axis, Talk, among
from gradwire.vector import Sent

SHORT = 1024


async def relayed(talk: Talk[Sent], through: Callable[[Ask], Awaitable[Tensor]]) -> Sent:
    """Run a coroutine to its end, and answer every ask of it by awaiting `through(ask)`."""
    answer: Tensor | None = None
    try:
        while True:
            answer = await through(talk.send(answer))  # type: ignore[arg-type]  # a fresh coroutine takes None
    except StopIteration as end:
        return end.value
    finally:
        talk.close()


async def sliced(ask: Ask, inside: Axis, between: Axis, place: int) -> Tensor:
    """Answer an island's ask to the other islands, as the island's member number `place`."""
    if _whole(ask, ask.x, inside):
        return await among(ask, between)
    answer = await among(ask.bringing(_slices(ask, ask.x, inside.size)[place]), between)
    gathered = await among(AllGather(_bytes(answer.reshape(-1))), inside)
    return _joined(ask, gathered.view(answer.dtype).view(inside.size, *answer.shape), ask.x)


async def sliced_batch(ask: Ask, inside: Axis, between: Axis) -> Tensor:
    """Answer a batched ask of all islands, x [islands, ...]: the members of an island send its row."""
    rows, members = ask.x, inside.size
    axis = Axis(len(rows)) if ask.axis is None else ask.axis  # the axis of the ask's groups of islands
    groups = axis.groups(len(rows))
    if _whole(ask, rows[0], inside):
        answers = await among(ask.bringing(rows.repeat_interleave(members, 0)), between)
        found = _by(answers, len(groups), members)[:, 0]
    else:
        cut = torch.stack([_slices(ask, row, members) for row in rows])
        answers = await among(ask.bringing(cut.flatten(0, 1)), between)
        answers = _by(answers, len(groups), members)
        own: list[Tensor] = [answers[axis.number(i)] for i in range(len(rows))]  # [members, ...] of island i
        if ask.kind == "AllToAll":  # the islands of a group have different answers
            own = [answer[:, axis.place(i)] for i, answer in enumerate(own)]
        gathered = await among(AllGather(_bytes(torch.cat(own).flatten(1))), inside)
        parts = gathered.view(answers.dtype).view(len(rows), *own[0].shape)
        joined = torch.stack([_joined(ask, each, rows[0]) for each in parts])
        found = torch.stack([joined[ranks if ask.kind == "AllToAll" else ranks[0]] for ranks in groups])
    return found[0] if ask.axis is None else found


def _by(answers: Tensor, groups: int, members: int) -> Tensor:
    """[groups * members, ...] -> [groups, members, ...]."""
    return answers.view(groups, members, *answers.shape[1:])


def _whole(ask: Ask, x: Tensor, inside: Axis) -> bool:
    """Whether every member sends all of x."""
    return inside.size == 1 or x.nbytes < SHORT


def _rows(ask: Ask, x: Tensor) -> Tensor:
    """Return x in the shape that is cut along its last axis: as it is for messages in bytes, else flat."""
    return x if ask.kind in ("AllGather", "AllToAll") else x.reshape(-1)


def _slices(ask: Ask, x: Tensor, members: int) -> Tensor:
    """Cut x into [members, ..., part], the last part padded with zeros."""
    rows = _rows(ask, x)
    part = -(-rows.shape[-1] // members)
    filled = F.pad(rows, (0, members * part - rows.shape[-1]))
    return filled.view(*rows.shape[:-1], members, part).movedim(-2, 0).contiguous()


def _joined(ask: Ask, gathered: Tensor, x: Tensor) -> Tensor:
    """Join the answers [members, ..., part] to slices of x into the answer to x."""
    rows = gathered.movedim(0, -2).flatten(-2)[..., : _rows(ask, x).shape[-1]]
    return rows.contiguous() if ask.kind in ("AllGather", "AllToAll") else rows.reshape(x.shape)


def _bytes(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.uint8)
