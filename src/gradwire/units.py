"""Units: what the hook exchanges together, whatever DDP's buckets are.

A unit is a flat vector of whole parameters, in reverse order of registration, about the order in which gradients
arrive. Units are made once and never change, so a state stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from gradwire import checkpoint
from gradwire.exchange import Exchange, State
from gradwire.layout import Layout
from gradwire.vector import Vector


@dataclass
class Unit:
    """Parameters that are exchanged together, as one flat vector.

    parameters: in the layout's order. buffer: f[d], the gradients, then their mean. views: the buffer by id of
    parameter, each in its parameter's shape. state: the exchange's. spare: room for a copy of it, if there are other
    units. missing: ids of parameters whose gradients have not come yet in this step.
    """

    layout: Layout
    parameters: tuple[Tensor, ...]
    buffer: Tensor
    views: dict[int, Tensor]
    state: State
    spare: State | None
    missing: set[int] = field(default_factory=set[int])

    @property
    def names(self) -> dict[int, str]:
        """Names of the parameters by id."""
        return dict(zip(self.views, self.layout.names, strict=True))

    def point(self) -> Tensor:
        """Copy the parameters to f[d], at least float32, each as it lies in memory, like its gradient."""
        flat = [param.detach().as_strided((param.numel(),), (1,)) for param in self.parameters]
        return torch.cat(flat).to(torch.promote_types(self.buffer.dtype, torch.float32))

    def keep(self) -> None:
        """Copy the state, for the case that the step turns out not to be finite."""
        if self.spare is not None:
            checkpoint.copy_(self.spare, self.state)

    def restore(self) -> None:
        """Put the kept state back."""
        if self.spare is not None:
            checkpoint.copy_(self.state, self.spare)

    def write(self, mean: Vector) -> bool:
        """Overwrite the buffer, and tell whether it is finite; half precision is rounded once, not at each addition."""
        if self.buffer.dtype.itemsize >= 4:
            mean.write_to_(self.buffer)
            return True
        self.buffer.copy_(mean.dense())
        return bool(self.buffer.isfinite().all())


def make_units(ddp: DistributedDataParallel, exchange: Exchange, unit_bytes: float, *, widened: bool) -> list[Unit]:
    """Cut what DDP reduces into units of one dtype and device, of at most unit_bytes unless one parameter is larger.

    `widened` buffers are float32 at least. ValueError if there is nothing to train.
    """
    named = _trainable(ddp)
    kinds = dict.fromkeys((param.dtype, param.device) for _, param in named)
    alike = ([(name, param) for name, param in named if (param.dtype, param.device) == kind] for kind in kinds)
    parts = [part for group in alike for part in _cut(group, unit_bytes)]
    return [_unit(part, exchange, alone=len(parts) == 1, widened=widened) for part in parts]


def _unit(part: list[tuple[str, Tensor]], exchange: Exchange, *, alone: bool, widened: bool) -> Unit:
    dtype, device = part[0][1].dtype, part[0][1].device
    if not dtype.is_floating_point:
        raise ValueError(f"parameter {part[0][0]!r} is {dtype}; gradwire exchanges real numbers only")
    wide = torch.promote_types(dtype, torch.float32)
    layout = Layout([name for name, _ in part], [tuple(param.shape) for _, param in part])
    buffer = torch.zeros(layout.d, dtype=wide if widened else dtype, device=device)
    cuts = layout.cut(buffer)
    views = {id(param): cuts[name] for name, param in part}
    # Alone in float32 a unit needs no spare: the guard decides before it changes. Half precision may overflow after.
    spare = None if alone and buffer.dtype.itemsize >= 4 else exchange.init(layout, wide, device)
    parameters = tuple(param for _, param in part)
    return Unit(layout, parameters, buffer, views, exchange.init(layout, wide, device), spare)


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
