"""Ahead: a talk that may compute before its turn to speak."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from torch import Tensor

from gradwire.ask import Ask, Talk

T = TypeVar("T")


class Ahead(Coroutine[Ask, Tensor, T]):
    """A talk that can begin before it is run: up to its first ask, which waits until somebody runs it.

    What it raises before that ask is raised when it is run, where all workers meet it in the same order.
    """

    def __init__(self, talk: Talk[T]) -> None:
        self._talk = talk
        self._first: Ask | None = None
        self._raised: BaseException | None = None

    def begin(self) -> None:
        """Compute up to the first ask; once."""
        try:
            self._first = self._talk.send(None)  # type: ignore[arg-type]  # a fresh coroutine takes None
        except BaseException as raised:
            self._raised = raised

    def send(self, value: Tensor, /) -> Ask:
        """The first ask, if the talk has begun; then whatever the talk asks."""
        if self._raised is not None:
            raise self._raised
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return self._talk.send(value)

    def throw(self, *args: Any) -> Ask:
        """The talk's."""
        return self._talk.throw(*args)

    def close(self) -> None:
        """End the talk."""
        self._talk.close()

    def __await__(self) -> Any:
        return self._talk.__await__()
