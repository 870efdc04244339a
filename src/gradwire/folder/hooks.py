"""What `save` and `load` need of a hook."""

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
        """This rank among those that exchange."""
        ...

    @property
    def part(self) -> tuple[int, int]:
        """Which part of the model these ranks exchange, and of how many."""
        ...

    def state_dict(self, *, copy: bool = True) -> dict[str, Any]:
        """Copy the state, or return it as it is."""
        ...

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from a state, on all of its ranks or on none."""
        ...


Hooks: TypeAlias = Saved | Sequence[Saved]


def listed(hooks: Hooks, ranks: int) -> list[Saved]:
    """One hook or several, as a list, all of whose workers are among so many ranks (TypeError, ValueError)."""
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
    """Whose state a hook keeps."""
    return Place(*hook.part, hook.process.rank, hook.process.size)
