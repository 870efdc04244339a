"""What all members of an island have to say alike, each member says a part of.

An ask of an island to the other islands is brought by all its s members, with the same x. Member p asks the members p
of the other islands with the p-th of s slices, and the island gathers the answers:

    x of the island   |  slice 0  |  slice 1  | ... | slice s - 1 |     zeros fill the last one
    between islands        member 0    member 1        member s - 1     the same ask, of a slice
    inside an island  |  answer 0 |  answer 1 | ... | answer s - 1 |    AllGather

An x of fewer than SHORT bytes goes whole, by every member: it would cost a second round trip, and save nothing.
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
    """Run a coroutine to its end, and answer its asks by what `through` makes of them."""
    answer: Tensor | None = None
    try:
        while True:
            answer = await through(talk.send(answer))  # type: ignore[arg-type]  # a fresh coroutine takes None
    except StopIteration as end:
        return end.value
    finally:
        talk.close()


async def sliced(ask: Ask, inside: Axis, between: Axis, place: int) -> Tensor:
    """Answer an island's ask to the other islands, as its member number `place`."""
    if _whole(ask, ask.x, inside):
        return await among(ask, between)
    answer = await among(ask.bringing(_slices(ask, ask.x, inside.size)[place]), between)
    gathered = await among(AllGather(_bytes(answer.reshape(-1))), inside)
    return _joined(ask, gathered.view(answer.dtype).view(inside.size, *answer.shape), ask.x)


async def sliced_batch(ask: Ask, inside: Axis, between: Axis) -> Tensor:
    """Answer the ask of a batch of all islands, x [islands, ...]: every row is brought by an island's members."""
    rows, members = ask.x, inside.size
    axis = Axis(len(rows)) if ask.axis is None else ask.axis  # along which groups of islands lie
    groups = axis.groups(len(rows))
    if _whole(ask, rows[0], inside):
        answers = await among(ask.bringing(rows.repeat_interleave(members, 0)), between)
        found = _by(answers, len(groups), members)[:, 0]
    else:
        cut = torch.stack([_slices(ask, row, members) for row in rows])
        answers = await among(ask.bringing(cut.flatten(0, 1)), between)
        answers = _by(answers, len(groups), members)
        own: list[Tensor] = [answers[axis.number(i)] for i in range(len(rows))]  # [members, ...] of island i
        if ask.kind == "AllToAll":  # every island has an answer of its own
            own = [answer[:, axis.place(i)] for i, answer in enumerate(own)]
        gathered = await among(AllGather(_bytes(torch.cat(own).flatten(1))), inside)
        parts = gathered.view(answers.dtype).view(len(rows), *own[0].shape)
        joined = torch.stack([_joined(ask, each, rows[0]) for each in parts])
        found = torch.stack([joined[ranks if ask.kind == "AllToAll" else ranks[0]] for ranks in groups])
    return found[0] if ask.axis is None else found


def _by(answers: Tensor, groups: int, members: int) -> Tensor:
    """[groups * members, ...] as [groups, members, ...]."""
    return answers.view(groups, members, *answers.shape[1:])


def _whole(ask: Ask, x: Tensor, inside: Axis) -> bool:
    """Whether every member brings all of x."""
    return inside.size == 1 or x.nbytes < SHORT


def _rows(ask: Ask, x: Tensor) -> Tensor:
    """What is cut along its last axis: bytes of messages, a row for every receiver, or any tensor as it lies."""
    return x if ask.kind in ("AllGather", "AllToAll") else x.reshape(-1)


def _slices(ask: Ask, x: Tensor, members: int) -> Tensor:
    """Cut x into [members, ..., part], the last one filled with zeros."""
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
