"""Where in a round a checkpoint of local steps was taken: what is allowed in one, and what all ranks have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from gradwire import checkpoint
from gradwire.transport.group import digest


def check_position(position: dict[str, Any], fragments: int) -> None:
    """Refuse what no `state_dict` has written (ValueError)."""
    whole = [position.get("local_steps"), position.get("due"), *_flat(position.get("settled"))]
    whole += _flat(position.get("arrivals"))
    if not all(type(number) is int and number >= 0 for number in whole):
        raise ValueError("the checkpoint's position in its round is not made of whole numbers")
    if len(_flat(position.get("settled"))) != fragments:
        raise ValueError("the checkpoint's position is of another number of fragments")


def _flat(value: Any) -> list[Any]:
    """The numbers in a list of numbers or of lists of them; [None] for anything else."""
    if not isinstance(value, list):
        return [None]
    parts = cast(list[Any], value)
    return [number for part in parts for number in (cast(list[Any], part) if isinstance(part, list) else [part])]


def moment(saved: Mapping[str, Any]) -> str:
    """What the checkpoints of all ranks have in common: anchors too are equal everywhere."""
    return checkpoint.moment(saved) + digest(parts["anchor"] for _, parts in sorted(saved["memory"].items()))
