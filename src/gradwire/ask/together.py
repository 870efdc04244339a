"""Talks side by side: what several talks ask for at the same time becomes one message where it can be one."""

from __future__ import annotations

from collections.abc import Coroutine, Hashable, Sequence
from typing import TypeAlias, TypeVar, cast

import torch
from torch import Tensor

from gradwire.ask.among import Ask

T = TypeVar("T")

Talk: TypeAlias = Coroutine[Ask, Tensor, T]
"""A running algorithm: it asks, is sent answers, and ends with a T."""


async def together(talks: Sequence[Talk[T]]) -> list[T]:
    """Run talks side by side, and return their results. Not for a batch, whose vectors have an axis of workers.

    Each talk receives what it would have received alone; of sums that holds up to rounding, for the order in which a
    network adds may depend on where in a message a value lies. If one raises, all are closed.
    """
    results: dict[int, T] = {}
    answers: dict[int, Tensor | None] = dict.fromkeys(range(len(talks)))
    try:
        while len(results) < len(talks):
            families: dict[Hashable, dict[int, Ask]] = {}
            for number, answer in answers.items():
                try:
                    ask = talks[number].send(cast(Tensor, answer))  # a fresh coroutine takes None
                except StopIteration as end:
                    results[number] = end.value
                else:
                    families.setdefault(ask.family, {})[number] = ask
            answers = {}
            for asks in families.values():
                answers |= zip(asks, await _joined(list(asks.values())), strict=True)
    finally:
        for talk in talks:
            talk.close()
    return [results[number] for number in range(len(talks))]


async def _joined(asks: Sequence[Ask]) -> list[Tensor]:
    """Ask as one of a family what several ask: one behind the other, row by row or flat. An answer for each."""
    first = asks[0]
    if len(asks) == 1:
        return [await first]
    if first.in_rows:
        answer = await first.bringing(torch.cat([ask.x for ask in asks], -1))
        parts = torch.split(answer, [ask.x.shape[-1] for ask in asks], -1)
        return [part.contiguous() for part in parts]
    answer = await first.bringing(torch.cat([ask.x.reshape(-1) for ask in asks]))
    parts = torch.split(answer, [ask.x.numel() for ask in asks])
    return [part.view(ask.x.shape) for part, ask in zip(parts, asks, strict=True)]
