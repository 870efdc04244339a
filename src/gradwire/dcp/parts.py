"""Splitting a state into pieces, each under its own key, and assembling it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor

from gradwire.checkpoint import ALONE, CHECKSUM, UNIT

HEAD, BUFFERS = "head", "buffers/"
NBYTES = 8192
"""The bytes of every head. The size is fixed, because a checkpoint is read into tensors of the saved size."""

Kind: TypeAlias = Literal["row", "common", "replicated"]
"""How a tensor is stored: "row", one per worker; "common", the same on all workers, in its parameter's shape;
"replicated", the same on all workers, in any shape."""


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
    replicated, local = "facts/{} of {}/".format(*part), "local" in state
    found: list[Piece] = []
    for name, paths in cast(Mapping[str, Mapping[str, Tensor]], state["memory"]).items():
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


def head(state: Mapping[str, Any]) -> Tensor:
    """Return u8[8192]: everything in a state that is not a tensor, as JSON (ValueError: it is too long)."""
    words = {name: value for name, value in state.items() if name not in ("memory", CHECKSUM, *ALONE)}
    if "local" in words:
        words["local"] = {**words["local"], "buffers": len(pending(state))}
    text = json.dumps(words).encode()
    if len(text) > NBYTES:
        raise ValueError(f"a distributed checkpoint stores at most {NBYTES} bytes about a hook, these are {len(text)}")
    return torch.frombuffer(bytearray(text.ljust(NBYTES)), dtype=torch.uint8)


def assemble(row: Tensor, memory: Mapping[str, Mapping[str, Tensor]], buffers: list[Tensor]) -> dict[str, Any]:
    """Assemble a state from a head, a memory and buffers (ValueError: the head does not fit them)."""
    try:
        words = cast(dict[str, Any], json.loads(row.cpu().numpy().tobytes()))
        announced = cast(int, words["local"]["buffers"]) if "local" in words else 0
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("the checkpoint was not read, or holds no state of gradwire") from error
    if "local" in words:
        if announced != len(buffers):
            raise ValueError("the checkpoint holds buffers under way: load it with gradwire.Stateful(hook, checkpoint)")
        words["local"]["buffers"] = buffers
    return {**words, "memory": memory}
