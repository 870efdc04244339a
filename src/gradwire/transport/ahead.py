"""Ahead: a coroutine that may compute up to its first ask before it is its turn to communicate."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from torch import Tensor

from gradwire.ask import Ask, Talk

T = TypeVar("T")


class Ahead(Coroutine[Ask, Tensor, T]):
    """A coroutine that can compute up to its first ask before a transport runs it.

    An error before that ask is raised when a transport runs it, so that it comes in the same order on all workers.
    """

    def __init__(self, talk: Talk[T]) -> None:
        self._talk = talk
        self._first: Ask | None = None
        self._raised: BaseException | None = None

    def begin(self) -> None:
        """Compute up to the first ask. Call it at most once."""
        try:
            self._first = self._talk.send(None)  # type: ignore[arg-type]  # a fresh coroutine takes None
        except BaseException as raised:
            self._raised = raised

    def send(self, value: Tensor, /) -> Ask:
        """Return the first ask if `begin` has computed it; else send `value` to the coroutine and return its ask."""
        if self._raised is not None:
            raise self._raised
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return self._talk.send(value)

    def throw(self, *args: Any) -> Ask:
        """Throw into the coroutine."""
        return self._talk.throw(*args)

    def close(self) -> None:
        """Close the coroutine."""
        self._talk.close()

    def __await__(self) -> Any:
        return self._talk.__await__()
