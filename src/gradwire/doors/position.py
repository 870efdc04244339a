"""The position in a round that a checkpoint of local steps stores: its check, and the comparison over ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from gradwire import checkpoint
from gradwire.transport.group import digest


def check_position(position: dict[str, Any], fragments: int) -> None:
    """Raise ValueError if `Local.state_dict` cannot have written this position."""
    arrivals = position.get("arrivals")
    pairs = [_whole(pair) for pair in cast(list[Any], arrivals)] if isinstance(arrivals, list) else [None]
    settled, now = _whole(position.get("settled")), _whole([position.get("local_steps"), position.get("due")])
    if settled is None or now is None or not all(pair is not None and len(pair) == 2 for pair in pairs):
        raise ValueError("the checkpoint's position in its round is not made of whole numbers")
    if len(settled) != fragments or any(pair is not None and pair[0] >= fragments for pair in pairs):
        raise ValueError("the checkpoint's position is of another number of fragments")


def _whole(value: Any) -> list[int] | None:
    """Return the value if it is a list of non-negative ints, else None."""
    numbers: list[Any] = cast(list[Any], value) if isinstance(value, list) else [None]
    return numbers if all(type(number) is int and number >= 0 for number in numbers) else None


def moment(saved: Mapping[str, Any]) -> str:
    """Return a string that is equal on all ranks if their checkpoints are of one moment; anchors are equal too."""
    return checkpoint.moment(saved) + digest(parts["anchor"] for _, parts in sorted(saved["memory"].items()))
