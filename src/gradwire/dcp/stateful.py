"""`gradwire.Stateful`: what `torch.distributed.checkpoint` saves and loads in place of a hook.

    "head"                  u8[n, 8192]     every worker's numbers and words, as JSON
    "memory/NAME/PATH"      f[n, *shape]    every worker's memory of a parameter
                            f[*shape]       of local steps, what is alike on all workers: anchor and outer state
    "facts/PART/NAME/PATH"  f[...]          what all workers of this part of the model know alike
    "buffers/NUMBER"        [n, m]          of local steps, buffers whose exchange is under way

n is the number of workers that saved. There is nothing but tensors, whose bytes are read as they are.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import os
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gradwire.ask import AllReduce
from gradwire.checkpoint import CHECKSUM, plain
from gradwire.dcp.parts import (
    BUFFERS,
    FACTS,
    HEAD,
    Memory,
    Piece,
    check_memory,
    head,
    pending,
    pieces,
    together,
    words_of,
)
from gradwire.folder.hooks import Saved, listed
from gradwire.folder.load import become
from gradwire.transport.everyone import Everyone

if TYPE_CHECKING:  # torch takes a second to import these
    from torch.distributed.checkpoint.storage import StorageReader
    from torch.distributed.tensor import DTensor

    from gradwire.dcp.grid import Grid
    from gradwire.dcp.source import Source


class Stateful:
    """A hook, for `torch.distributed.checkpoint`. Every rank makes it.

        dcp.save({"gradwire": gradwire.Stateful(hook)}, checkpoint_id=folder)
        dcp.load({"gradwire": gradwire.Stateful(hook, folder)}, checkpoint_id=folder)

    If the number of workers is the same, each gets its own state back, bit for bit; another number gets the mean that
    `merge` makes, up to rounding. A sharded model's memories are redistributed over any number of ranks in an island;
    what the exchange knows of its units, such as thresholds, then stays as the hook has it.

    Args:
        hook: what `attach` or `local` returned; saved and loaded between steps.
        source: to load once: the checkpoint's folder, or a reader of it, which tells how many workers saved.
        model: the model, if its parameters are DTensors: they know where their shards belong.
        key: to load, if the checkpoint holds several hooks' states: the name under which this one's was saved.
        group: the ranks that save or load together; all of them if left out.

    Raises:
        ValueError: on every rank: the source does not hold one state that fits, or a sharded model was not given.
    """

    def __init__(
        self,
        hook: Saved,
        source: StorageReader | str | os.PathLike[str] | None = None,
        *,
        model: nn.Module | None = None,
        key: str | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self._hook, self._everyone = hook, Everyone(group)
        self._named = self._everyone.do(lambda: _parameters(hook, model, self._everyone.size))
        self._source = None if source is None else self._everyone.do(lambda: _read(source, key, hook))

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors. With a source that has not been loaded yet, tensors of the sizes that it holds.

        These have this hook's own values if as many workers saved, and zeros otherwise, buffers under way always.
        """
        state = self._everyone.do(self._hook.state_dict)  # no exchange is under way from here on: the group is free
        found, grid = pieces(state, self._hook.part), self._grid(state)
        if self._source is not None and not self._same:
            return _room(found, grid, self._source)
        rows = _rows(state, found, grid, head(state, self._checksums(state), self._form(state["memory"])))
        return rows if self._source is None else _known(rows, grid, self._source)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from what was read into `state_dict`'s tensors, on all ranks or on none.

        Raises:
            ValueError: one sentence, on every rank; then nothing has been changed on any.
        """
        state = self._everyone.do(lambda: self._state(saved))
        if not self._same:
            self._average(state)
        become(self._everyone, [self._hook], [state])
        self._source = None

    @property
    def _same(self) -> bool:
        """Whether as many workers saved as there are now."""
        return self._source is None or self._source.workers == self._hook.process.size

    def _checksums(self, state: Mapping[str, Any]) -> list[int]:
        """This worker's checksums, one for each part of the model; empty if not all parts' ranks are in the group."""
        names = zlib.crc32("\n".join(sorted(state["memory"])).encode())  # of another model's hook they are others
        own = (names, self._hook.process.rank)
        told = self._everyone.tell(json.dumps([own, self._hook.part[0], state[CHECKSUM]]))
        found = {part: checksum for whose, part, checksum in map(json.loads, told) if tuple(whose) == own}
        return [found[part] for part in sorted(found)] if len(found) == self._hook.part[1] else []

    def _form(self, memory: Memory) -> str:
        """A digest of the memory's names, shapes and dtypes, and of how its parameters are divided."""
        tensors = [(name, path, *_kind(part)) for name, parts in memory.items() for path, part in parts.items()]
        spread = [(name, str(_divided(param))) for name, param in self._named.items() if _divided(param)]
        return hashlib.blake2b(repr((sorted(tensors), sorted(spread))).encode(), digest_size=8).hexdigest()

    def _grid(self, state: Mapping[str, Any]) -> Grid:
        from gradwire.dcp.grid import Grid

        tensors = (piece.tensor for piece in pieces(state, (0, 1)))
        device = next(tensors, torch.empty(0)).device
        return self._everyone.do(lambda: Grid(self._hook.process, self._named, device))

    def _state(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """This rank's part of what was read; of rows, where their number differs, its own rows' part of the mean."""
        found = pieces(mine := self._hook.state_dict(copy=False), self._hook.part)
        read = {piece.key: _local(saved[piece.key]) if piece.key in saved else piece.tensor for piece in found}
        heads = [words_of(row) for row in _local(saved[HEAD])]

        def memory(of_rows: Callable[[Tensor], Tensor]) -> dict[str, dict[str, Tensor]]:
            filled: dict[str, dict[str, Tensor]] = {name: {} for name in mine["memory"]}
            for piece in found:
                value = read[piece.key]
                filled[piece.name][piece.path] = of_rows(value) if piece.kind == "row" else value
            return filled

        for row, words in enumerate(self._held(heads)):
            worker = memory(operator.itemgetter(row))
            check_memory(words, worker, self._hook.part, self._form(worker))
        whole = memory(lambda rows: rows[0] if self._same else rows.sum(0, dtype=torch.float64) / len(heads))
        buffers = [_local(saved[key])[0] for key in sorted(saved) if key.startswith(BUFFERS)]
        state = together(heads[0], whole, buffers)
        return state if self._same else {**state, "rank": None, "world_size": None}

    def _held(self, heads: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The heads of the workers whose rows this rank holds: its own, or those that Shard(0) gives it."""
        if self._same:
            return heads
        each = math.ceil(len(heads) / self._hook.process.size)
        return heads[self._hook.process.rank * each :][:each]

    def _average(self, state: Mapping[str, Any]) -> None:
        """Add up the workers' parts of the means, in float64."""
        rows = [piece for piece in pieces(state, self._hook.part) if piece.kind == "row"]
        if rows:
            total = self._hook.process.ask(AllReduce(torch.cat([piece.tensor.flatten() for piece in rows])))
            parts = torch.split(total, [piece.tensor.numel() for piece in rows])
            for piece, part in zip(rows, parts, strict=True):
                piece.tensor.copy_(part.view(piece.tensor.shape))


def _parameters(hook: Saved, model: nn.Module | None, ranks: int) -> dict[str, Tensor]:
    """The model's parameters by the names that the hook has (ValueError)."""
    (hook,) = listed(hook, ranks)
    if model is None and hook.part[1] > 1:
        raise ValueError(f"the model is sharded over {hook.part[1]} ranks: gradwire.Stateful(hook, model=model)")
    if not hook.state_dict(copy=False)["memory"]:
        raise ValueError("this hook has chosen no exchange: a distributed checkpoint takes one attached by name")
    named = {} if model is None else dict(model.named_parameters())
    return {plain(name): param for name, param in named.items()}


def _read(source: StorageReader | str | os.PathLike[str], key: str | None, hook: Saved) -> Source:
    from gradwire.dcp.source import read

    wanted = [piece.key for piece in pieces(hook.state_dict(copy=False), hook.part) if piece.kind != "fact"]
    return read(source, key, wanted)


def _rows(state: Mapping[str, Any], found: list[Piece], grid: Grid, mine: Tensor) -> dict[str, Any]:
    """All of a state as tensors, this worker's own as rows, its head among them."""
    own = {HEAD: mine, **pending(state)}
    out: dict[str, Any] = {key: grid.rows("", row) for key, row in own.items()}
    for piece in found:
        lay = grid.alike if piece.kind == "alike" else grid.rows
        out[piece.key] = piece.tensor if piece.kind == "fact" else lay(piece.name, piece.tensor)
    return out


def _known(rows: dict[str, Any], grid: Grid, source: Source) -> dict[str, Any]:
    """These tensors, each with memory of its own, less facts that the source does not hold, and its buffers' sizes."""
    apart = {key: tensor.clone() for key, tensor in rows.items() if key in source.found or not key.startswith(FACTS)}
    buffers = {key: each for key, each in source.found.items() if key.startswith(BUFFERS)}
    others = {key: tensor for key, tensor in apart.items() if not key.startswith(BUFFERS)}
    return others | {key: grid.rows("", torch.zeros(size[1:], dtype=dtype)) for key, (size, dtype) in buffers.items()}


def _room(found: list[Piece], grid: Grid, source: Source) -> dict[str, Any]:
    """Room for the state of another number of workers; facts of other parts of the model are not read."""
    out: dict[str, Any] = {**source.whole()}
    for piece in found:
        if piece.kind == "row":
            out[piece.key] = grid.room(piece.name, piece.tensor, source.workers)
        elif piece.kind == "alike":
            out[piece.key] = grid.alike(piece.name, torch.zeros_like(piece.tensor))
        elif piece.key in source.found:
            out[piece.key] = source.room(piece.key)
    return out


def _kind(tensor: Tensor) -> tuple[tuple[int, ...], str]:
    """Shape and dtype."""
    return tuple(tensor.shape), str(tensor.dtype)


def _divided(param: Tensor) -> object:
    """How a DTensor is placed on its mesh; None for others."""
    return getattr(param, "placements", None)


def _local(tensor: Tensor | DTensor) -> Tensor:
    """What of it is here."""
    return cast("DTensor", tensor).to_local() if hasattr(tensor, "to_local") else tensor
