"""Checkpoints of a hook: their contents, the check before loading, and merging those of several ranks.

    {"format": 1, "exchange": "EF(...)", "seed": 0, "step": 120, "rank": 0, "world_size": 2,
     "memory": {"layer.weight": {"error": tensor, ...}, ...}, "checksum": 3735928559}

The checksum is the CRC-32 of the memory; older checkpoints have none, and load all the same. Every tensor is stored
under its parameter's name, in the parameter's shape; names in nested states are joined by dots. Replicated state, a
tensor that is not one value per coordinate, belongs to a whole unit; it is stored under the unit's first parameter, as
"unit.NAME".
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from gradwire.exchange import State
from gradwire.exchange.protocol import flatten, visible
from gradwire.layout import Layout, bytes_of

FORMAT = 1
UNIT = "unit."

_ALONE = "checkpoint keeps one rank's value of these; save and load gradwire.Stateful(hook) instead"
ALONE: Mapping[str, Any] = {"torch.distributed": {_ALONE: None}, f"torch.distributed.{_ALONE}": None}
"""Two keys that every checkpoint has, and that loading ignores.

They make torch.distributed.checkpoint refuse a checkpoint: it joins nested keys by dots, and its error names two keys
that become equal. Otherwise it would store every rank's state under the same keys, and keep only one of them.
"""

_PARTS = frozenset({"format", "exchange", "seed", "step", "rank", "world_size", "memory"})

CHECKSUM = "checksum"
_OPTIONAL = frozenset({*ALONE, CHECKSUM})

_FORMER = {"Deft": "DEFT", "Micro": "MiCRO", "Ramp": "Warmup"}
"""Former names of parts that older checkpoints contain."""


def pack(
    memory: dict[str, dict[str, Tensor]], exchange: str, seed: int, step: int, rank: int | None, world_size: int | None
) -> dict[str, Any]:
    """Put the parts of a checkpoint together."""
    return {
        "format": FORMAT,
        "exchange": exchange,
        "seed": seed,
        "step": step,
        "rank": rank,
        "world_size": world_size,
        "memory": memory,
        CHECKSUM: checksum(memory),
        **ALONE,
    }


def plain(name: str) -> str:
    """Return a parameter's name without torch's wrappers, so that checkpoints fit with and without them."""
    return name.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")


def by_name(state: State, layout: Layout, *, copy: bool = True) -> dict[str, dict[str, Tensor]]:
    """Split a state by parameter: {parameter: {dotted name: tensor}}; replicated state goes to the first parameter.

    The tensors are copies, or, unless `copy`, the state's own memory.
    """
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in layout.names}
    for *_, path, values in flatten(state):
        if values.shape != (layout.d,):
            parts[layout.names[0]][UNIT + path] = values
        else:
            for name, part in layout.cut(values).items():
                parts[name][path] = part
    if copy:
        return {name: {path: part.clone() for path, part in paths.items()} for name, paths in parts.items()}
    return parts


def read(state: State, layout: Layout, memory: Mapping[str, Mapping[str, Tensor]], prefix: str = "") -> State:
    """Read a state like this one into new tensors, from {parameter: {dotted name: tensor}}."""
    return {
        name: read(part, layout, memory, f"{prefix}{name}.")
        if isinstance(part, dict)
        else _read(part, layout, memory, prefix + name)
        for name, part in visible(state).items()
    }


def _read(like: Tensor, layout: Layout, memory: Mapping[str, Mapping[str, Tensor]], path: str) -> Tensor:
    if (replicated := memory[layout.names[0]].get(UNIT + path)) is not None:
        return replicated.detach().to(like, copy=True)
    flat = torch.empty_like(like)
    for name, part in layout.cut(flat).items():
        part.copy_(memory[name][path].detach())
    return flat


def check(saved: Any, mine: Mapping[str, Any]) -> None:
    """Raise ValueError if a checkpoint does not fit `mine`, the checkpoint that this rank would save itself."""
    if not isinstance(saved, Mapping) or set(cast(Mapping[str, Any], saved)) - _OPTIONAL != set(mine) - _OPTIONAL:
        raise ValueError("this is not a checkpoint of a gradwire hook")
    saved = cast(Mapping[str, Any], saved)
    if saved["format"] != FORMAT:
        raise ValueError(f"the checkpoint has format {saved['format']!s:.200}, this gradwire reads format {FORMAT}")
    if modern(str(saved["exchange"])) != modern(str(mine["exchange"])):
        # Cut short, because every rank receives this text, and it may be of any length.
        raise ValueError(f"the checkpoint is of {saved['exchange']!s:.200}, this hook runs {mine['exchange']}")
    for name in ("step", "seed"):
        if type(saved[name]) is not int:
            raise ValueError(f"the checkpoint's {name} must be a whole number, got {saved[name]!r:.200}")
    for name in ("rank", "world_size"):
        if saved[name] is not None and type(saved[name]) is not int:
            raise ValueError(f"the checkpoint's {name} must be a whole number, got {saved[name]!r:.200}")
    if saved["step"] < 0:
        raise ValueError(f"the checkpoint's step must not be negative, got {saved['step']}")
    _check_memory(saved["memory"], mine["memory"])
    _check_sum(saved, mine["memory"])
    if saved["world_size"] is not None and (saved["rank"], saved["world_size"]) != (mine["rank"], mine["world_size"]):
        raise ValueError(
            f"the checkpoint is of rank {saved['rank']} of {saved['world_size']}, this is rank {mine['rank']} of "
            f"{mine['world_size']}; gradwire.merge(checkpoints of all ranks) makes one that fits any number of ranks"
        )


def checksum(memory: Mapping[str, Mapping[str, Tensor]]) -> int:
    """Return the CRC-32 of all names and values, in the order of names."""
    found = 0
    for name, parts in sorted(memory.items()):
        for path, values in sorted(parts.items()):
            found = zlib.crc32(bytes_of(values).numpy(), zlib.crc32(f"{name}/{path}".encode(), found))  # pyright: ignore
    return found


def _check_sum(saved: Mapping[str, Any], mine: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise ValueError if the memory is damaged. A memory that was cast since it was saved cannot be checked."""
    memory = saved["memory"]
    cast_since = any(
        memory[name][path].dtype != part.dtype for name, parts in mine.items() for path, part in parts.items()
    )
    if saved.get(CHECKSUM) is None or cast_since:
        return
    if saved[CHECKSUM] != (found := checksum(memory)):
        raise ValueError(
            f"the checkpoint's memory is damaged: its checksum is {found}, and was {saved[CHECKSUM]} when it was saved"
        )


def modern(text: str) -> str:
    """Replace former names of parts in the repr of an exchange by their present names."""
    return re.sub(rf"\b({'|'.join(_FORMER)})\(", lambda found: f"{_FORMER[found[1]]}(", text)


def moment(saved: Mapping[str, Any]) -> str:
    """Return a string of step, seed and replicated state, which is equal on all ranks for one step of one run."""
    replicated = [
        (name, path, tuple(value.shape), cast(list[float], value.flatten().tolist()))
        for name, parts in sorted(cast(Mapping[str, Mapping[str, Tensor]], saved["memory"]).items())
        for path, value in sorted(parts.items())
        if path.startswith(UNIT)
    ]
    return repr((saved["step"], saved["seed"], replicated))


def merge(checkpoints: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Combine the checkpoints of all ranks into one that every rank may load, with any number of ranks.

    Every tensor becomes its mean over the ranks. For EF this preserves the mean residual, for shifted methods the mean
    shift. Replicated state, which is equal on all ranks, is kept. The run continues, but is not bit-equal.

    Raises:
        ValueError: the checkpoints are not those of all ranks of one run at one step.
    """
    for checkpoint in checkpoints:
        if not isinstance(checkpoint, Mapping) or not set(checkpoint) >= _PARTS:
            raise ValueError(f"merge takes checkpoints of gradwire hooks, got {checkpoint!r:.60}")
        check(checkpoint, checkpoint)
    ranks, sizes = ([checkpoint[name] for checkpoint in checkpoints] for name in ("rank", "world_size"))
    every = list(range(len(ranks)))
    whole = all(type(number) is int for number in (*ranks, *sizes))
    if not ranks or not whole or sorted(ranks) != every or sizes != [len(ranks)] * len(ranks):
        raise ValueError(f"merge takes one checkpoint from every rank of a run, got ranks {ranks} of {sizes}")
    ordered = sorted(checkpoints, key=lambda checkpoint: checkpoint["rank"])
    first, *others = ordered
    for other in others:
        check({**other, "rank": 0}, first)
        if (other["step"], other["seed"]) != (first["step"], first["seed"]):
            raise ValueError(
                f"the checkpoints are of different steps or seeds: rank {other['rank']} differs from rank 0"
            )
        if moment(other) != moment(first):
            raise ValueError(
                f"the checkpoints are of different runs: the replicated state of rank {other['rank']} is not rank 0's"
            )
    memory = {
        name: {path: _merged(path, [each["memory"][name][path] for each in ordered]) for path in parts}
        for name, parts in first["memory"].items()
    }
    # Keys that a door has added, such as the position in a round of local steps, are taken from rank 0.
    added = {name: value for name, value in first.items() if name not in _PARTS and name != CHECKSUM}
    return pack(memory, modern(str(first["exchange"])), first["seed"], first["step"], None, None) | added


def _merged(path: str, parts: Sequence[Tensor]) -> Tensor:
    """Return the mean; of replicated or equal tensors the first one, because a mean over three would round."""
    if path.startswith(UNIT) or all(torch.equal(part, parts[0]) for part in parts):
        return parts[0].detach().clone()
    return torch.stack([part.detach() for part in parts]).mean(0)


def _check_memory(saved: Any, mine: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise ValueError for a memory of another model, or a value that is not a memory."""
    if not isinstance(saved, Mapping):
        raise ValueError(f"the checkpoint's memory must be a dictionary by parameter, got {type(saved).__name__}")
    memory = cast(Mapping[str, Mapping[str, Any]], saved)
    for name in mine.keys() ^ memory.keys():
        where = "this model" if name in mine else "the checkpoint"
        raise ValueError(f"the checkpoint is of another model: only {where} has a parameter {name!r}")
    for name, parts in mine.items():
        if not isinstance(memory[name], Mapping) or not all(isinstance(path, str) for path in (name, *memory[name])):
            raise ValueError(f"the checkpoint's memory of {name!r} must be a dictionary of tensors by name")
        if parts.keys() != memory[name].keys():
            raise ValueError(f"the checkpoint does not hold {sorted(parts)} for {name!r}, as this hook does")
        for path, part in parts.items():
            _check_tensor(memory[name][path], part, f"{path} of {name!r}", replicated=path.startswith(UNIT))


def _check_tensor(saved: Any, mine: Tensor, what: str, *, replicated: bool) -> None:
    """Raise ValueError for a value that cannot replace `mine`. The exchange checks the shape of replicated state."""
    if not isinstance(saved, Tensor) or not saved.is_floating_point() or saved.layout != torch.strided or saved.is_meta:
        raise ValueError(f"the checkpoint's {what} is not a dense tensor of real numbers")
    if saved.shape != mine.shape and not replicated:
        shapes = f"{tuple(saved.shape)} there and {tuple(mine.shape)} here"
        raise ValueError(f"the checkpoint is of another model: {what} has shape {shapes}")
    if not bool(saved.to(mine.dtype).isfinite().all()):
        raise ValueError(f"the checkpoint's {what} holds a value that is not finite")
