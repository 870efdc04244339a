"""Units: what the hook exchanges together, whatever DDP's buckets are.

A unit is a flat vector of whole parameters, in reverse order of registration, about the order in which gradients
arrive. Units are made once and never change, so a state stays where it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from gradwire import checkpoint, kernels
from gradwire.exchange import Exchange, State, Taker, tensor
from gradwire.kernels import Seen
from gradwire.layout import Layout, Turn
from gradwire.vector import Sparse, Vector


@dataclass
class Unit:
    """Parameters that are exchanged together, as one flat vector.

    parameters: in the layout's order. buffer: f[d], where the gradients come together. mean: f[d], their mean; the
    buffer itself, or room that units share, if the buffer is given away. state: the exchange's. spare: room for a copy
    of it, if it must be copied. takes: the name of the state's tensor, if there is one, that is added to the gradients
    as they come, and whose place the buffer takes; then nothing of it is ever copied, for what it was before is the
    next step's buffer. missing: ids of parameters whose gradients have not come yet in this step. gradients: those that
    have, where DDP holds them. seen: what was noticed when they were put together.
    """

    layout: Layout
    parameters: tuple[Tensor, ...]
    buffer: Tensor
    mean: Tensor
    state: State
    spare: State | None
    takes: str | None = None
    missing: set[int] = field(default_factory=set[int])
    gradients: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    seen: Seen | None = None
    _before: Tensor | None = None
    _views: dict[int, dict[int, Tensor]] = field(default_factory=dict[int, dict[int, Tensor]])

    @property
    def names(self) -> dict[int, str]:
        """Names of the parameters by id, in the layout's order."""
        return {id(param): name for param, name in zip(self.parameters, self.layout.names, strict=True)}

    def views(self, flat: Tensor) -> dict[int, Tensor]:
        """Cut one of the unit's vectors f[d] by id of parameter, each in its parameter's shape."""
        if id(flat) not in self._views:
            cuts = self.layout.cut(flat)
            self._views[id(flat)] = {param: cuts[name] for param, name in self.names.items()}
        return self._views[id(flat)]

    def begin(self) -> None:
        """Wait for the gradients of another step."""
        self._before = None
        self.missing = set(map(id, self.parameters))
        self.gradients.clear()

    def fill(self, param: int, gradient: Tensor) -> None:
        """Take a gradient."""
        self.gradients[param] = gradient
        self.missing.discard(param)

    def join(self, scale: float = 1.0) -> Seen:
        """Put the gradients together, divided by scale. Where a mean of few values is expected, zeros stay behind."""
        pieces = [self.gradients[param] for param in self.names]
        memory = None if self.takes is None else tensor(self.state, self.takes)
        wanted = 0 if self.seen is None else self.seen.wanted
        self.seen = kernels.accumulate(self.buffer, memory, pieces, scale, wanted)
        return self.seen

    def hand_out(self, mean: Vector, factor: float) -> bool:
        """Overwrite the gradients, where DDP holds them, by their mean times a factor; tell whether it is finite.

        Half precision is rounded once, not at each addition.
        """
        if isinstance(mean, Sparse) and self.seen is not None and self.seen.cleared:
            self._scatter(mean if factor == 1.0 else mean.times(factor))
            return True
        if self.mean.dtype.itemsize >= 4:
            mean.write_to_(self.mean)
        else:
            self.mean.copy_(mean.dense())
        finite = self.mean.dtype.itemsize >= 4 or bool(self.mean.isfinite().all())
        if factor != 1.0:
            self.mean.mul_(factor)
        means = self.views(self.mean)
        for param, gradient in self.gradients.items():
            gradient.copy_(means[param])
        return finite

    def _scatter(self, mean: Sparse) -> None:
        """Write k values among the zeros where DDP holds the gradients, without a dense vector between."""
        ends = list(itertools.accumulate(self.layout.sizes))
        gradients = [self.gradients[param] for param in self.names]
        rooms = {gradient.untyped_storage().data_ptr(): gradient for gradient in gradients}
        for pointer, one in rooms.items():
            starts = [int(g.storage_offset()) if g.untyped_storage().data_ptr() == pointer else -1 for g in gradients]
            bucket = one.new_empty(0).set_(one.untyped_storage())  # pyright: ignore[reportArgumentType]
            kernels.scatter_(bucket, mean.indices, mean.values, ends, starts)

    def params(self) -> Tensor:
        """Copy the parameters to f[d], at least float32, each as it lies in memory, like its gradient."""
        flat = [param.detach().as_strided((param.numel(),), (1,)) for param in self.parameters]
        return torch.cat(flat).to(torch.promote_types(self.buffer.dtype, torch.float32))

    def turn(
        self, rank: int, size: int, step: int, seed: int, lr: float | None, budget: float = 1.0, scale: float = 1.0
    ) -> Turn:
        """Get ready for the exchange, and say what it is told: keep the state, put the gradients together."""
        self.keep()
        given = self.takes is not None
        return Turn(rank, size, step, self.layout, seed, (), self.params, lr, budget, given, self.join(scale))

    def finish(self, mean: Vector, scale: float = 1.0) -> bool:
        """After the exchange: hand out the mean times the scale; tell whether it is finite."""
        finite = self.hand_out(mean, scale)
        self.release()
        return finite

    def keep(self) -> None:
        """Copy the state, for the case that the step turns out not to be finite."""
        if self.takes is not None:
            self._before = tensor(self.state, self.takes)
        if self.spare is not None:
            checkpoint.copy_(self.spare, self._rest())

    def release(self) -> None:
        """If the exchange has taken the buffer, what was in its place before is the buffer from now on.

        Its content is the state before the step, until another step begins.
        """
        if self.takes is not None and self._before is not None and self.state[self.takes] is self.buffer:
            self.buffer = self._before
        else:
            self._before = None

    def restore(self) -> None:
        """Put the kept state back."""
        if self.takes is not None and self._before is not None:
            self.buffer, self.state[self.takes] = tensor(self.state, self.takes), self._before
            self._before = None
        if self.spare is not None:
            rest = self._rest()
            checkpoint.copy_(rest, self.spare)
            self.state.update(rest)

    def _rest(self) -> State:
        """All of the state that is kept by copying."""
        return {name: part for name, part in self.state.items() if name != self.takes}


def make_units(ddp: DistributedDataParallel, exchange: Exchange, unit_bytes: float, *, widened: bool) -> list[Unit]:
    """Cut what DDP reduces into units of one dtype and device, of at most unit_bytes unless one parameter is larger.

    `widened` buffers are float32 at least. ValueError if there is nothing to train.
    """
    named = _trainable(ddp)
    kinds = dict.fromkeys((param.dtype, param.device) for _, param in named)
    alike = ([(name, param) for name, param in named if (param.dtype, param.device) == kind] for kind in kinds)
    parts = [part for group in alike for part in _cut(group, unit_bytes)]
    # Where parameters may be unused the means are read once more after the last unit, so none can share its room.
    takes = exchange.takes if isinstance(exchange, Taker) and not ddp.find_unused_parameters else None
    alone = len(parts) == 1 and takes is None
    units = [_unit(part, exchange, alone=alone, widened=widened) for part in parts]
    if takes is not None:
        _give(units, takes)
    return units


def _unit(part: list[tuple[str, Tensor]], exchange: Exchange, *, alone: bool, widened: bool) -> Unit:
    dtype, device = part[0][1].dtype, part[0][1].device
    if not dtype.is_floating_point:
        raise ValueError(f"parameter {part[0][0]!r} is {dtype}; gradwire exchanges real numbers only")
    wide = torch.promote_types(dtype, torch.float32)
    layout = Layout([name for name, _ in part], [tuple(param.shape) for _, param in part])
    buffer = torch.zeros(layout.d, dtype=wide if widened else dtype, device=device)
    # Alone in float32 a unit needs no spare: the guard decides before it changes. Half precision may overflow after.
    spare = None if alone and buffer.dtype.itemsize >= 4 else exchange.init(layout, wide, device)
    parameters = tuple(param for _, param in part)
    return Unit(layout, parameters, buffer, buffer, exchange.init(layout, wide, device), spare)


def _give(units: list[Unit], takes: str) -> None:
    """Let the exchange take the buffers of units in full precision, which share the room for their means instead."""
    rooms: dict[tuple[torch.dtype, torch.device], Tensor] = {}
    full = [unit for unit in units if unit.buffer.dtype == tensor(unit.state, takes).dtype]
    for unit in sorted(full, key=lambda unit: unit.layout.d, reverse=True):
        room = rooms.setdefault((unit.buffer.dtype, unit.buffer.device), torch.empty_like(unit.buffer))
        unit.mean, unit.takes = room[: unit.layout.d], takes
        if unit.spare is not None:
            del unit.spare[takes]


def _trainable(ddp: DistributedDataParallel) -> list[tuple[str, Tensor]]:
    """Names and parameters that DDP reduces, the last registered first: about the order in which gradients arrive."""
    ignored = cast(set[str], ddp.parameters_to_ignore)
    every = cast(Iterable[tuple[str, Tensor]], ddp.module.named_parameters())
    named = [(name, param) for name, param in every if param.requires_grad and name not in ignored]
    if not named:
        raise ValueError("the model has no parameter that requires a gradient")
    return named[::-1]


def _cut(named: list[tuple[str, Tensor]], unit_bytes: float) -> Iterable[list[tuple[str, Tensor]]]:
    """Fill one list after the other up to unit_bytes."""
    part: list[tuple[str, Tensor]] = []
    room = unit_bytes
    for name, param in named:
        if part and param.nbytes > room:
            yield part
            part, room = [], unit_bytes
        part.append((name, param))
        room -= param.nbytes
    yield part
