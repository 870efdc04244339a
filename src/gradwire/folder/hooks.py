"""The interface of hooks that `save` and `load` use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from gradwire.folder.manifest import Place
from gradwire.transport.process import Process


@runtime_checkable
class Saved(Protocol):
    """A running exchange with a state: what `gradwire.attach` and `gradwire.local` return."""

    @property
    def process(self) -> Process:
        """The transport, with this rank and the number of ranks."""
        ...

    @property
    def part(self) -> tuple[int, int]:
        """(index, count): these ranks exchange part `index` of `count` of the model."""
        ...

    def state_dict(self, *, copy: bool = True) -> dict[str, Any]:
        """Copy the state, or, unless `copy`, return it with the hook's own memory."""
        ...

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from a state, on all ranks of the hook or on none."""
        ...


Hooks: TypeAlias = Saved | Sequence[Saved]


def listed(hooks: Hooks, ranks: int) -> list[Saved]:
    """Return one or several hooks as a list (TypeError: not a hook; ValueError: none, or more workers than ranks)."""
    found = list(hooks) if isinstance(hooks, Sequence) else [hooks]
    for hook in found:
        if not isinstance(hook, Saved):
            raise TypeError(f"this takes what gradwire.attach or gradwire.local returned, got {type(hook).__name__}")
        if hook.process.size > ranks:
            raise ValueError(f"{ranks} ranks save or load together, but the hook has {hook.process.size} workers")
    if not found:
        raise ValueError("no hook was given: there is no state to save or to load")
    return found


def place(hook: Saved) -> Place:
    """Return the place of a hook's state: its part of the model and its worker."""
    return Place(*hook.part, hook.process.rank, hook.process.size)
