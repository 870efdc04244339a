"""Units: tensors that are exchanged together as one flat vector. Units are made once and never change.

So every state keeps its layout, in whatever order gradients arrive, and a resumed run is bit-equal.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.engine.bundles import VectorSpec, Workspace, bundled
from gradwire.engine.shards import copies, shard
from gradwire.exchange import Exchange, State, divide_budget
from gradwire.exchange.protocol import Accumulates, visible
from gradwire.exchange.undo import before, keep_, logged, restore_
from gradwire.kernels import Accumulated
from gradwire.layout import Layout, Turn
from gradwire.vector import Sent, Sparse, Vector, wide

MAX_STORAGES = 4
"""Up to this number of gradient storages, one kernel call per storage scans all values of a sparse mean."""


@dataclass
class Unit:
    """Tensors that are exchanged together as one flat vector; of a DTensor, this rank's shard.

    Attributes:
        layout: names and shapes of the tensors.
        tensors: the tensors, in the layout's order.
        dtype: the vector's dtype.
        state: the exchange's state.
        fused: whether an exchange that `Accumulates` may do so. Otherwise a backup of the state is kept in each step.
        workspace: scratch memory that units share; None if the means are read after the step.
        missing: ids of tensors whose gradients have not arrived in this step.
        gradients: the gradients that have arrived, by id of tensor, in the door's own memory.
    """

    layout: Layout
    tensors: tuple[Tensor, ...]
    dtype: torch.dtype
    state: State
    fused: bool
    workspace: Workspace | None = None
    missing: set[int] = field(default_factory=set[int])
    gradients: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    _buffer: Tensor | None = None
    _collected: Accumulated | None = None
    _views: dict[int, dict[int, Tensor]] = field(default_factory=dict[int, dict[int, Tensor]])

    @property
    def names(self) -> dict[int, str]:
        """The tensors' names by id, in the layout's order."""
        return {id(tensor): name for tensor, name in zip(self.tensors, self.layout.names, strict=True)}

    @property
    def device(self) -> torch.device:
        """The tensors' device."""
        return self.tensors[0].device

    @property
    def vector(self) -> VectorSpec:
        """Layout, dtype and device of the flat vector."""
        return VectorSpec(self.layout, self.dtype, self.device)

    @property
    def buffer(self) -> Tensor:
        """f[d]: the concatenated gradients, unless the exchange accumulates them, and afterwards their mean."""
        if self.workspace is not None:
            return self.workspace.of(self.layout)
        if self._buffer is None:
            self._buffer = torch.zeros(self.layout.d, dtype=self.dtype, device=self.device)
        return self._buffer

    def views(self, flat: Tensor) -> dict[int, Tensor]:
        """Return cached views of one of the unit's vectors f[d] by id of tensor, each in its tensor's shape."""
        if flat.data_ptr() not in self._views:
            cuts = self.layout.cut(flat)
            self._views[flat.data_ptr()] = {tensor: cuts[name] for tensor, name in self.names.items()}
        return self._views[flat.data_ptr()]

    def begin(self) -> None:
        """Begin a step: all gradients are missing."""
        self._collected = None
        self.missing = set(map(id, self.tensors))
        self.gradients.clear()

    def fill(self, tensor: int, gradient: Tensor) -> None:
        """Set a tensor's gradient, contiguous and in the tensor's memory layout."""
        self.gradients[tensor] = gradient
        self.missing.discard(tensor)

    async def average(self, exchange: Exchange, turn: Turn, scale: float = 1.0, factor: float = 1.0) -> Sent:
        """Overwrite the gradients with `factor` times their mean over the workers.

        Gradients are divided by `scale` before the exchange, and the mean is multiplied by it afterwards. `finite` of
        the result also covers the values that were written.
        """
        x = self._collect(exchange, turn, scale)
        given = x if isinstance(exchange, Accumulates) else x.values
        sent = await exchange(given, self.state, turn)  # pyright: ignore[reportArgumentType] - what accumulates takes it
        finite = self._deliver(sent.mean, scale * factor)
        return sent if finite or not sent.finite else Sent(sent.own, sent.mean, finite=False)

    def rollback(self, exchange: Exchange) -> None:
        """Restore the state from before this step's exchange; do nothing if there was none, or a second time."""
        if self._collected is None:
            return
        if self._collected.residual is not None and isinstance(exchange, Accumulates):
            exchange.rollback(self.state)
        else:
            restore_(self.state)
        self._collected = None

    def forget(self) -> None:
        """Make this step final: `rollback` no longer undoes it."""
        self._collected = None

    def before(self) -> State:
        """Return the state from before this step's exchange; the caller must not write it."""
        return visible(self.state) if self._collected is None else before(self.state)

    def params(self) -> Tensor:
        """Copy the tensors to f[d], at least float32, each in its memory layout, as its gradient is."""
        parts = map(shard, self.tensors)
        flat = [part.as_strided((part.numel(),), (1,)) for part in parts]
        return torch.cat(flat).to(wide(self.dtype))

    def _collect(self, exchange: Exchange, turn: Turn, scale: float) -> Accumulated:
        """Concatenate the gradients divided by `scale`; an exchange that accumulates adds its residual."""
        gradients = [self.gradients[tensor] for tensor in self.names]
        pieces = gradients if scale == 1.0 else [gradient / scale for gradient in gradients]
        made = None
        if self.fused and isinstance(exchange, Accumulates):
            made = exchange.accumulate(pieces, self.state, turn)
        if made is None:
            keep_(self.state, logged(exchange))
            made = kernels.accumulate(self.buffer, None, pieces)
        elif made.cleared and scale != 1.0:
            for gradient in gradients:
                gradient.zero_()
        self._collected = made
        return made

    def _deliver(self, mean: Vector, factor: float) -> bool:
        """Overwrite the gradients with `factor` times their mean; return whether all written values are finite.

        They may overflow. Values of half precision are rounded once, not at each addition.
        """
        cleared = self._collected is not None and self._collected.cleared
        if isinstance(mean, Sparse) and cleared:
            scaled = mean if factor == 1.0 else mean.times(factor)
            self._scatter(scaled)
            return bool(kernels.finite(scaled.values)) if len(scaled.values) else True
        target = self.buffer
        if target.dtype.itemsize >= 4:
            mean.write_to_(target)
        else:
            target.copy_(mean.dense())
        if factor != 1.0:
            target.mul_(factor)
        finite = bool(kernels.finite(target))
        means = self.views(target)
        for tensor, gradient in self.gradients.items():
            gradient.copy_(means[tensor].view_as(gradient))
        return finite

    def _scatter(self, mean: Sparse) -> None:
        """Add a sparse mean to gradients that were zeroed: k writes, no dense vector."""
        ends = list(itertools.accumulate(self.layout.sizes))
        gradients = [self.gradients[tensor] for tensor in self.names]
        storages = {gradient.untyped_storage().data_ptr(): gradient for gradient in gradients if gradient.numel()}
        if len(storages) > MAX_STORAGES:
            _scatter_runs(gradients, mean, ends)
            return
        for pointer, one in storages.items():
            starts = [int(g.storage_offset()) if g.untyped_storage().data_ptr() == pointer else -1 for g in gradients]
            whole = one.new_empty(0).set_(one.untyped_storage())  # pyright: ignore[reportArgumentType]
            kernels.scatter_(whole, mean.indices, mean.values, ends, starts)


def _scatter_runs(gradients: Sequence[Tensor], mean: Sparse, ends: Sequence[int]) -> None:
    """Add a sparse mean to gradients in many storages, one `index_add_` per run of entries of one gradient."""
    bounds = torch.tensor(ends, device=mean.indices.device)
    piece = torch.searchsorted(bounds, mean.indices, right=True)
    changes = (piece[1:] != piece[:-1]).nonzero().flatten().add_(1)
    starts = [0, *cast(list[int], changes.tolist()), len(piece)] if len(piece) else [0]
    owners = cast(list[int], piece[starts[:-1]].tolist())
    for owner, start, end in zip(owners, starts, starts[1:], strict=False):
        flat = gradients[owner].view(-1)
        offset = ends[owner] - flat.numel()
        flat.index_add_(0, mean.indices[start:end] - offset, mean.values[start:end].to(flat.dtype))


def make_units(
    named: Sequence[tuple[str, Tensor]],
    exchange: Exchange,
    unit_bytes: float,
    *,
    widened: bool = False,
    fused: bool = True,
) -> list[Unit]:
    """Make units of one dtype and device, of at most `unit_bytes` unless one tensor is larger.

    Args:
        named: floating-point tensors by name, in the order in which units are exchanged.
        exchange: its `init` makes the states.
        unit_bytes: largest size of a unit.
        widened: exchange in float32 at least, even if the tensors are narrower.
        fused: let an exchange that `Accumulates` do so. Units then share the memory of their means.

    Raises:
        ValueError: there is no tensor, or one that is not floating-point.
    """
    units = [_unit(part, exchange, widened=widened, fused=fused) for part in cut(named, unit_bytes)]
    if fused:
        workspace = Workspace(bundled(units))
        for unit in units:
            unit.workspace = workspace
    return units


def _unit(part: list[tuple[str, Tensor]], exchange: Exchange, *, widened: bool, fused: bool) -> Unit:
    layout = Layout([name for name, _ in part], [tuple(shard(tensor).shape) for _, tensor in part])
    narrow, device = part[0][1].dtype, part[0][1].device
    dtype = wide(narrow) if widened else narrow
    state = exchange.init(layout, wide(narrow), device)
    # Residuals are at least float32, so the exchange itself widens half precision where it reads it, and rounds once.
    return Unit(layout, tuple(tensor for _, tensor in part), dtype, state, fused and dtype == wide(narrow))


def cut(named: Sequence[tuple[str, Tensor]], unit_bytes: float) -> list[list[tuple[str, Tensor]]]:
    """Group named tensors into units of one dtype and device, of at most `unit_bytes` unless one tensor is larger.

    Tensors that a mesh replicates have units of their own: an exchange selects by all values of a unit, and the ranks
    that hold the same tensor must select alike.

    Raises:
        ValueError: there is no tensor, or one that is not floating-point.
    """
    if not named:
        raise ValueError("the model has no parameter that requires a gradient")
    for name, tensor in named:
        if not tensor.dtype.is_floating_point:
            raise ValueError(f"parameter {name!r} is {tensor.dtype}; gradwire exchanges real numbers only")
    kinds = dict.fromkeys(_kind(tensor) for _, tensor in named)
    alike = ([(name, tensor) for name, tensor in named if _kind(tensor) == kind] for kind in kinds)
    return [part for group in alike for part in _filled(group, unit_bytes)]


def budgets(units: Iterable[tuple[Sequence[Tensor], Layout, State]]) -> dict[Layout, float]:
    """Return every unit's part of the budget (`Turn.budget`), divided before a step among the units of a kind.

    Tensors that a mesh replicates have a budget of their own, which is the same on all ranks that hold them.

    Args:
        units: tensors, layout and state of each unit.
    """
    kinds: dict[tuple[bool, ...], dict[Layout, State]] = {}
    for tensors, layout, state in units:
        kinds.setdefault(copies(tensors[0]), {})[layout] = visible(state)
    return {layout: part for states in kinds.values() for layout, part in divide_budget(states).items()}


def _kind(tensor: Tensor) -> tuple[torch.dtype, torch.device, tuple[bool, ...]]:
    return tensor.dtype, tensor.device, copies(tensor)


def _filled(named: list[tuple[str, Tensor]], unit_bytes: float) -> Iterable[list[tuple[str, Tensor]]]:
    """Yield lists of neighbouring tensors of at most `unit_bytes`, unless one tensor is larger."""
    part: list[tuple[str, Tensor]] = []
    left = unit_bytes
    for name, tensor in named:
        nbytes = shard(tensor).nbytes
        if part and nbytes > left:
            yield part
            part, left = [], unit_bytes
        part.append((name, tensor))
        left -= nbytes
    yield part
