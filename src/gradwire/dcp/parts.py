"""A state in pieces, each under a key of its own, and put together again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor

from gradwire.checkpoint import ALONE, CHECKSUM, UNIT, checksum

HEAD, BUFFERS, FACTS, FORM = "head", "buffers/", "facts/", "form"
NBYTES = 8192
"""Of every head, for a checkpoint is read into room of the size that was saved."""

Kind: TypeAlias = Literal["row", "alike", "fact"]
"""Whose a tensor is: one worker's; the same on all, cut as its parameter is; the same on all, of another shape."""

Memory: TypeAlias = Mapping[str, Mapping[str, Tensor]]
"""{parameter: {dotted name: tensor}}."""


@dataclass(frozen=True)
class Piece:
    """A tensor of a state's memory, at this path under this parameter."""

    key: str
    kind: Kind
    name: str
    path: str
    tensor: Tensor


def pieces(state: Mapping[str, Any], part: tuple[int, int]) -> list[Piece]:
    """A state's memory. Facts are of this part of the model, for other parts make other units."""
    facts, local = "{}{} of {}/".format(FACTS, *part), "local" in state
    found: list[Piece] = []
    for name, paths in cast(Memory, state["memory"]).items():
        for path, tensor in paths.items():
            alike = local and (path == "anchor" or path.startswith("outer."))
            kind: Kind = "fact" if path.startswith(UNIT) else "alike" if alike else "row"
            key = f"{facts if kind == 'fact' else 'memory/'}{name}/{path}"
            found.append(Piece(key, kind, name, path, tensor))
    return found


def pending(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Buffers whose exchange is under way, by key."""
    buffers = cast(list[Tensor], state["local"]["buffers"]) if "local" in state else []
    return {f"{BUFFERS}{number}": buffer for number, buffer in enumerate(buffers)}


def head(state: Mapping[str, Any], checksums: Sequence[int], form: str) -> Tensor:
    """u8[8192]: all of a state that is not a tensor, as JSON (ValueError).

    Args:
        state: a hook's state.
        checksums: of this worker's memories, one for each part of the model, in their order; empty if unknown.
        form: a digest of how the memories lie, for those that lie otherwise have other checksums.
    """
    words = {name: value for name, value in state.items() if name not in ("memory", CHECKSUM, *ALONE)}
    if "local" in words:
        words["local"] = {**words["local"], "buffers": len(pending(state))}
    if 9 * len(checksums) <= NBYTES // 2:
        words[CHECKSUM] = " ".join(f"{checksum:08x}" for checksum in checksums)
        words[FORM] = form
    text = json.dumps(words).encode()
    if len(text) > NBYTES:
        raise ValueError(f"a distributed checkpoint has room for {NBYTES} bytes about a hook, these are {len(text)}")
    return torch.frombuffer(bytearray(text.ljust(NBYTES)), dtype=torch.uint8)


def words_of(row: Tensor) -> dict[str, Any]:
    """Read a head (ValueError)."""
    try:
        return cast(dict[str, Any], dict(json.loads(row.cpu().numpy().tobytes())))
    except (ValueError, TypeError) as error:
        raise ValueError("the checkpoint was not read, or holds no state of gradwire") from error


def check_memory(words: Mapping[str, Any], memory: Memory, part: tuple[int, int], form: str) -> None:
    """Refuse a memory that is not the one that was saved with this head (ValueError).

    Heads of earlier versions have no checksum. Memories that were cast or divided anew since then cannot be compared.
    """
    saved = str(words.get(CHECKSUM, "")).split()
    if len(saved) != part[1] or words.get(FORM) != form:
        return
    if (found := f"{checksum(memory):08x}") != saved[part[0]]:
        raise ValueError(
            f"the memory of worker {words.get('rank')} in the checkpoint is damaged: its checksum is {found}, and was "
            f"{saved[part[0]]} when it was saved"
        )


def together(words: Mapping[str, Any], memory: Memory, buffers: list[Tensor]) -> dict[str, Any]:
    """Put a state together: what its head says, a memory, and buffers (ValueError)."""
    state = {name: value for name, value in words.items() if name not in (CHECKSUM, FORM)} | {"memory": memory}
    if "local" in words:
        local = words["local"]
        if not isinstance(local, Mapping) or local.get("buffers") != len(buffers):
            raise ValueError("the checkpoint holds buffers under way: load it with gradwire.Stateful(hook, checkpoint)")
        state["local"] = {**local, "buffers": buffers}
    return state
