"""A state in pieces, each under a key of its own, and put together again."""

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
"""Of every head, for a checkpoint is read into room of the size that was saved."""

Kind: TypeAlias = Literal["row", "alike", "fact"]
"""Whose a tensor is: one worker's; the same on all, cut as its parameter is; the same on all, of another shape."""


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
    facts, local = "facts/{} of {}/".format(*part), "local" in state
    found: list[Piece] = []
    for name, paths in cast(Mapping[str, Mapping[str, Tensor]], state["memory"]).items():
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


def head(state: Mapping[str, Any]) -> Tensor:
    """u8[8192]: all of a state that is not a tensor, as JSON (ValueError)."""
    words = {name: value for name, value in state.items() if name not in ("memory", CHECKSUM, *ALONE)}
    if "local" in words:
        words["local"] = {**words["local"], "buffers": len(pending(state))}
    text = json.dumps(words).encode()
    if len(text) > NBYTES:
        raise ValueError(f"a distributed checkpoint has room for {NBYTES} bytes about a hook, these are {len(text)}")
    return torch.frombuffer(bytearray(text.ljust(NBYTES)), dtype=torch.uint8)


def together(row: Tensor, memory: Mapping[str, Mapping[str, Tensor]], buffers: list[Tensor]) -> dict[str, Any]:
    """A state out of a head, a memory and buffers (ValueError)."""
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
