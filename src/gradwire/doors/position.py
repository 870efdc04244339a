"""Where in a round a checkpoint of local steps was taken: what is allowed in one, and what all ranks have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, cast

import torch

from gradwire import checkpoint


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
    digest = hashlib.blake2b(digest_size=16)
    for _, parts in sorted(saved["memory"].items()):
        digest.update(parts["anchor"].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return checkpoint.moment(saved) + digest.hexdigest()
