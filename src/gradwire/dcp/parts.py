"""Splitting a state into pieces, each under its own key, and assembling it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor

from gradwire.checkpoint import ALONE, CHECKSUM, UNIT, checksum

HEAD, BUFFERS, REPLICATED, FORM = "head", "buffers/", "facts/", "form"
NBYTES = 8192
"""The bytes of every head. The size is fixed, because a checkpoint is read into tensors of the saved size."""

Kind: TypeAlias = Literal["row", "common", "replicated"]
"""How a tensor is stored: "row", one per worker; "common", the same on all workers, in its parameter's shape;
"replicated", the same on all workers, in any shape."""

Memory: TypeAlias = Mapping[str, Mapping[str, Tensor]]
"""{parameter: {dotted name: tensor}}."""


@dataclass(frozen=True)
class Piece:
    """A tensor of a state's memory: its key in the checkpoint, its kind, its parameter's name and its path."""

    key: str
    kind: Kind
    name: str
    path: str
    tensor: Tensor


def pieces(state: Mapping[str, Any], part: tuple[int, int]) -> list[Piece]:
    """Return the pieces of a state's memory.

    Keys of replicated state contain the part of the model, because other parts have other units.
    """
    replicated, local = "{}{} of {}/".format(REPLICATED, *part), "local" in state
    found: list[Piece] = []
    for name, paths in cast(Memory, state["memory"]).items():
        for path, tensor in paths.items():
            common = local and (path == "anchor" or path.startswith("outer."))
            kind: Kind = "replicated" if path.startswith(UNIT) else "common" if common else "row"
            key = f"{replicated if kind == 'replicated' else 'memory/'}{name}/{path}"
            found.append(Piece(key, kind, name, path, tensor))
    return found


def pending(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the buffers whose exchange is under way, by key."""
    buffers = cast(list[Tensor], state["local"]["buffers"]) if "local" in state else []
    return {f"{BUFFERS}{number}": buffer for number, buffer in enumerate(buffers)}


def head(state: Mapping[str, Any], checksums: Sequence[int], form: str) -> Tensor:
    """Return u8[8192]: everything in a state that is not a tensor, as JSON.

    Args:
        state: a hook's state.
        checksums: this worker's, one for each part of the model, in order; empty if not all are known.
        form: a digest of the memory's names, shapes, dtypes and placements.

    Raises:
        ValueError: it is too long.
    """
    words = {name: value for name, value in state.items() if name not in ("memory", CHECKSUM, *ALONE)}
    if "local" in words:
        words["local"] = {**words["local"], "buffers": len(pending(state))}
    if 9 * len(checksums) <= NBYTES // 2:
        words[CHECKSUM] = " ".join(f"{checksum:08x}" for checksum in checksums)
        words[FORM] = form
    text = json.dumps(words).encode()
    if len(text) > NBYTES:
        raise ValueError(f"a distributed checkpoint stores at most {NBYTES} bytes about a hook, these are {len(text)}")
    return torch.frombuffer(bytearray(text.ljust(NBYTES)), dtype=torch.uint8)


def read_head(row: Tensor) -> dict[str, Any]:
    """Read a head (ValueError: it is not one)."""
    try:
        return cast(dict[str, Any], dict(json.loads(row.cpu().numpy().tobytes())))
    except (ValueError, TypeError) as error:
        raise ValueError("the checkpoint was not read, or holds no state of gradwire") from error


def check_memory(head: Mapping[str, Any], memory: Memory, part: tuple[int, int], form: str) -> None:
    """Refuse a memory that has changed since it was saved with this head (ValueError).

    Heads of earlier versions have no checksum. A memory that was cast or sharded differently cannot be compared.
    """
    saved = str(head.get(CHECKSUM, "")).split()
    if len(saved) != part[1] or head.get(FORM) != form:
        return
    if (found := f"{checksum(memory):08x}") != saved[part[0]]:
        raise ValueError(
            f"the memory of worker {head.get('rank')} in the checkpoint is damaged: its checksum is {found}, and was "
            f"{saved[part[0]]} when it was saved"
        )


def assemble(head: Mapping[str, Any], memory: Memory, buffers: list[Tensor]) -> dict[str, Any]:
    """Assemble a state from a head, a memory and buffers (ValueError: the head does not fit them)."""
    state = {name: value for name, value in head.items() if name not in (CHECKSUM, FORM)} | {"memory": memory}
    if "local" in head:
        local = head["local"]
        if not isinstance(local, Mapping) or local.get("buffers") != len(buffers):
            raise ValueError("the checkpoint holds buffers under way: load it with gradwire.Stateful(hook, checkpoint)")
        state["local"] = {**local, "buffers": buffers}
    return state
