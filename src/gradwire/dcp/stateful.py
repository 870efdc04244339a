"""`gradwire.Stateful`: a hook's state in the form that `torch.distributed.checkpoint` saves and loads.

    "head"                  u8[n, 8192]     every worker's numbers and strings, as JSON
    "memory/NAME/PATH"      f[n, *shape]    every worker's memory of a parameter
                            f[*shape]       of local steps, the same on all workers: anchor and outer state
    "facts/PART/NAME/PATH"  f[...]          replicated state, the same on all workers of this part of the model
    "buffers/NUMBER"        [n, m]          of local steps, buffers whose exchange is under way

n is the number of workers that saved. All values are tensors, whose bytes are read as they are.
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
    HEAD,
    REPLICATED,
    Memory,
    Piece,
    assemble,
    check_memory,
    head,
    pending,
    pieces,
    read_head,
)
from gradwire.folder.hooks import Saved, listed
from gradwire.folder.load import load_all
from gradwire.transport.allranks import AllRanks

if TYPE_CHECKING:  # torch takes a second to import these
    from torch.distributed.checkpoint.storage import StorageReader
    from torch.distributed.tensor import DTensor

    from gradwire.dcp.grid import Grid
    from gradwire.dcp.source import Source


class Stateful:
    """A hook's state for `torch.distributed.checkpoint`. Every rank makes one.

        dcp.save({"gradwire": gradwire.Stateful(hook)}, checkpoint_id=folder)
        dcp.load({"gradwire": gradwire.Stateful(hook, folder)}, checkpoint_id=folder)

    With the same number of workers, each gets its own state back, bit for bit; another number of workers gets the mean
    that `merge` makes, up to rounding. A sharded model's memories are redistributed over any number of ranks in an
    island; the hook then keeps its own replicated state, such as thresholds.

    Args:
        hook: what `attach` or `local` returned; save and load it between steps.
        source: to load once: the checkpoint's folder, or a reader of it, from which the number of workers that saved is
            read.
        model: the model, if its parameters are DTensors; needed for the placement of their shards.
        key: to load from a checkpoint with several hooks' states: the name under which this one was saved.
        group: the ranks that save or load together; all ranks by default.

    Raises:
        ValueError: on every rank: the source does not contain exactly one state that fits, or `model` is missing for a
            sharded model.
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
        self._hook, self._all_ranks = hook, AllRanks(group)
        self._named = self._all_ranks.do(lambda: _parameters(hook, model, self._all_ranks.size))
        self._source = None if source is None else self._all_ranks.do(lambda: _read(source, key, hook))

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors; with a source that has not been loaded yet, tensors of the saved sizes.

        These hold this hook's own values if the number of workers is the same, and zeros otherwise.
        """
        state = self._all_ranks.do(self._hook.state_dict)  # waits for an exchange under way, so the group is free
        found, grid = pieces(state, self._hook.part), self._grid(state)
        if self._source is not None and not self._same_size:
            return _zeros(found, grid, self._source)
        rows = _rows(state, found, grid, head(state, self._checksums(state), self._form(state["memory"])))
        return rows if self._source is None else _fitted(rows, grid, self._source)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from the state that was read into `state_dict`'s tensors, on all ranks or on none.

        Raises:
            ValueError: on every rank: the state does not fit; then nothing has changed on any rank.
        """
        state = self._all_ranks.do(lambda: self._state(saved))
        if not self._same_size:
            self._average(state)
        load_all(self._all_ranks, [self._hook], [state])
        self._source = None

    @property
    def _same_size(self) -> bool:
        """Whether the state to load was saved by as many workers as there are now."""
        return self._source is None or self._source.workers == self._hook.process.size

    def _checksums(self, state: Mapping[str, Any]) -> list[int]:
        """Gather this worker's checksums, one for each part of the model; empty if the group lacks a part."""
        names = zlib.crc32("\n".join(sorted(state["memory"])).encode())  # differs for the hook of another model
        own = [names, self._hook.process.rank]
        gathered = map(json.loads, self._all_ranks.gather_text(json.dumps([own, self._hook.part[0], state[CHECKSUM]])))
        found = {part: checksum for worker, part, checksum in gathered if worker == own}
        return [found[part] for part in sorted(found)] if len(found) == self._hook.part[1] else []

    def _form(self, memory: Memory) -> str:
        """Return a digest of a memory's names, shapes and dtypes, and of its parameters' placements."""
        tensors = [
            (name, path, tuple(tensor.shape), str(tensor.dtype))
            for name, paths in memory.items()
            for path, tensor in paths.items()
        ]
        placed = [(name, str(getattr(param, "placements", None))) for name, param in self._named.items()]
        sharded = [each for each in placed if each[1] != "None"]
        return hashlib.blake2b(repr((sorted(tensors), sorted(sharded))).encode(), digest_size=8).hexdigest()

    def _grid(self, state: Mapping[str, Any]) -> Grid:
        from gradwire.dcp.grid import Grid

        tensors = (piece.tensor for piece in pieces(state, (0, 1)))
        device = next(tensors, torch.empty(0)).device
        return self._all_ranks.do(lambda: Grid(self._hook.process, self._named, device))

    def _state(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """Return this rank's state; if the number of workers differs, with its own rows' part of the mean over rows."""
        found = pieces(mine := self._hook.state_dict(copy=False), self._hook.part)
        read = {piece.key: _local(saved[piece.key]) if piece.key in saved else piece.tensor for piece in found}
        heads = [read_head(row) for row in _local(saved[HEAD])]

        def memory(reduce: Callable[[Tensor], Tensor]) -> dict[str, dict[str, Tensor]]:
            """What was read, with one tensor in place of each piece's rows."""
            filled: dict[str, dict[str, Tensor]] = {name: {} for name in mine["memory"]}
            for piece in found:
                value = read[piece.key]
                filled[piece.name][piece.path] = reduce(value) if piece.kind == "row" else value
            return filled

        for row, worker in enumerate(self._held(heads)):
            one = memory(operator.itemgetter(row))
            check_memory(worker, one, self._hook.part, self._form(one))
        whole = memory(lambda rows: rows[0] if self._same_size else rows.sum(0, dtype=torch.float64) / len(heads))
        buffers = [_local(saved[key])[0] for key in sorted(saved) if key.startswith(BUFFERS)]
        state = assemble(heads[0], whole, buffers)
        return state if self._same_size else {**state, "rank": None, "world_size": None}

    def _held(self, heads: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the heads of the workers whose rows are on this rank: its own, or those that Shard(0) puts here."""
        if self._same_size:
            return heads
        each = math.ceil(len(heads) / self._hook.process.size)
        return heads[self._hook.process.rank * each :][:each]

    def _average(self, state: Mapping[str, Any]) -> None:
        """Sum the workers' parts of the means, in float64."""
        rows = [piece for piece in pieces(state, self._hook.part) if piece.kind == "row"]
        if rows:
            total = self._hook.process.ask(AllReduce(torch.cat([piece.tensor.flatten() for piece in rows])))
            parts = torch.split(total, [piece.tensor.numel() for piece in rows])
            for piece, part in zip(rows, parts, strict=True):
                piece.tensor.copy_(part.view(piece.tensor.shape))


def _parameters(hook: Saved, model: nn.Module | None, ranks: int) -> dict[str, Tensor]:
    """Return the model's parameters by the hook's names (ValueError: the hook cannot be saved, or needs a model)."""
    (hook,) = listed(hook, ranks)
    if model is None and hook.part[1] > 1:
        raise ValueError(f"the model is sharded over {hook.part[1]} ranks: gradwire.Stateful(hook, model=model)")
    if not hook.state_dict(copy=False)["memory"]:
        raise ValueError("this hook has chosen no exchange: a distributed checkpoint takes one attached by name")
    named = {} if model is None else dict(model.named_parameters())
    return {plain(name): param for name, param in named.items()}


def _read(source: StorageReader | str | os.PathLike[str], key: str | None, hook: Saved) -> Source:
    from gradwire.dcp.source import read

    wanted = [piece.key for piece in pieces(hook.state_dict(copy=False), hook.part) if piece.kind != "replicated"]
    return read(source, key, wanted)


def _rows(state: Mapping[str, Any], found: list[Piece], grid: Grid, mine: Tensor) -> dict[str, Any]:
    """Return a whole state as tensors, with this worker's head and its own tensors as rows."""
    own = {HEAD: mine, **pending(state)}
    out: dict[str, Any] = {key: grid.rows("", row) for key, row in own.items()}
    for piece in found:
        place = grid.replicated if piece.kind == "common" else grid.rows
        out[piece.key] = piece.tensor if piece.kind == "replicated" else place(piece.name, piece.tensor)
    return out


def _fitted(rows: dict[str, Any], grid: Grid, source: Source) -> dict[str, Any]:
    """Return rows to load a source into: no two share memory, and their keys and buffers are the source's."""
    known = [key for key in rows if key in source.found or not key.startswith(REPLICATED)]
    apart = {key: rows[key].clone() for key in known if not key.startswith(BUFFERS)}
    buffers = {key: each for key, each in source.found.items() if key.startswith(BUFFERS)}
    return apart | {key: grid.rows("", torch.zeros(size[1:], dtype=dtype)) for key, (size, dtype) in buffers.items()}


def _zeros(found: list[Piece], grid: Grid, source: Source) -> dict[str, Any]:
    """Return zeros for a state; replicated state of parts of the model that do not exist now is not read."""
    out: dict[str, Any] = {**source.whole()}
    for piece in found:
        if piece.kind == "row":
            out[piece.key] = grid.zero_rows(piece.name, piece.tensor, source.workers)
        elif piece.kind == "common":
            out[piece.key] = grid.replicated(piece.name, torch.zeros_like(piece.tensor))
        elif piece.key in source.found:
            out[piece.key] = source.zeros(piece.key)
    return out


def _local(tensor: Tensor | DTensor) -> Tensor:
    """Return a DTensor's local shard, or a plain tensor itself."""
    return cast("DTensor", tensor).to_local() if hasattr(tensor, "to_local") else tensor
