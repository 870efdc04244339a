"""`gradwire.Stateful`: a hook's state in the form that `torch.distributed.checkpoint` saves and loads.

    "head"                  u8[n, 8192]     every worker's numbers and strings, as JSON
    "memory/NAME/PATH"      f[n, *shape]    every worker's memory of a parameter
                            f[*shape]       of local steps, the same on all workers: anchor and outer state
    "facts/PART/NAME/PATH"  f[...]          replicated state, the same on all workers of this part of the model
    "buffers/NUMBER"        [n, m]          of local steps, buffers whose exchange is under way

n is the number of workers that saved. All values are tensors, whose bytes are read as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gradwire.ask import AllReduce
from gradwire.checkpoint import plain
from gradwire.dcp.parts import BUFFERS, HEAD, Piece, assemble, head, pending, pieces
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
        """Return the state as tensors; with a source that has not been loaded yet, zeros of the saved sizes."""
        state = self._all_ranks.do(self._hook.state_dict)  # waits for an exchange under way, so the group is free
        found, grid = pieces(state, self._hook.part), self._grid(state)
        return _zeros(found, grid, self._source) if self._source else _rows(state, found, grid)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from the state that was read into `state_dict`'s tensors, on all ranks or on none.

        Raises:
            ValueError: on every rank: the state does not fit; then nothing has changed on any rank.
        """
        state = self._all_ranks.do(lambda: self._state(saved))
        if self._workers != self._hook.process.size:
            self._average(state)
        load_all(self._all_ranks, [self._hook], [state])
        self._source = None

    @property
    def _workers(self) -> int:
        """The number of workers that saved the state to load."""
        return self._source.workers if self._source else self._hook.process.size

    def _grid(self, state: Mapping[str, Any]) -> Grid:
        from gradwire.dcp.grid import Grid

        tensors = (piece.tensor for piece in pieces(state, (0, 1)))
        device = next(tensors, torch.empty(0)).device
        return self._all_ranks.do(lambda: Grid(self._hook.process, self._named, device))

    def _state(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """Return this rank's state; if the number of workers differs, with its own rows' part of the mean over rows."""
        mine = self._hook.state_dict(copy=False)
        same, n = self._workers == self._hook.process.size, self._workers
        memory: dict[str, dict[str, Tensor]] = {name: {} for name in mine["memory"]}
        for piece in pieces(mine, self._hook.part):
            value = _local(saved[piece.key]) if piece.key in saved else piece.tensor
            if piece.kind == "row":
                value = value[0] if same else value.sum(0, dtype=torch.float64) / n
            memory[piece.name][piece.path] = value
        row = self._hook.process.rank if same and self._source else 0
        buffers = [_local(saved[key])[row] for key in sorted(saved) if key.startswith(BUFFERS)]
        state = assemble(_local(saved[HEAD])[row], memory, buffers)
        return state if same else {**state, "rank": None, "world_size": None}

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


def _rows(state: Mapping[str, Any], found: list[Piece], grid: Grid) -> dict[str, Any]:
    """Return a whole state as tensors, with this worker's own tensors as rows."""
    own = {HEAD: head(state), **pending(state)}
    out: dict[str, Any] = {key: grid.rows("", row) for key, row in own.items()}
    for piece in found:
        place = grid.replicated if piece.kind == "common" else grid.rows
        out[piece.key] = piece.tensor if piece.kind == "replicated" else place(piece.name, piece.tensor)
    return out


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
