"""Coroutines side by side: asks that several coroutines make at the same time are joined to one message if possible."""

from __future__ import annotations

from collections.abc import Coroutine, Hashable, Sequence
from typing import TypeAlias, TypeVar, cast

import torch
from torch import Tensor

from gradwire.ask.among import Ask

T = TypeVar("T")

Talk: TypeAlias = Coroutine[Ask, Tensor, T]
"""A running algorithm: a coroutine that yields asks, is sent their answers, and returns a T."""


async def together(talks: Sequence[Talk[T]]) -> list[T]:
    """Run coroutines side by side and return their results. Not for batched mode, whose vectors have a worker axis.

    Each coroutine receives the answers that it would have received alone. For sums this holds up to rounding, because
    the order of additions in a network may depend on a value's position in the message. If one raises, all are closed.
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
    """Concatenate the x of asks of one family, row by row or flat, ask once, and split the answer."""
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
