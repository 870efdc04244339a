"""A density that starts high and falls in stages: the warm-up of deep gradient compression, for any exchange.

Lin et al. 2018, arXiv:1712.01887: early gradients change fast, and a sparse message contains too little of them. With
the defaults and a final density of 0.001 the densities are 0.25, 0.0625, 0.015625, 0.00390625 and then 0.001, as in the
paper, which spreads them over the first epochs. Here the stages take equal parts of the first `steps` synchronisations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from gradwire.checks import check_whole, is_number
from gradwire.exchange.change import Change, change_
from gradwire.exchange.protocol import Exchange, State, check_exchange, wants_largest, wants_norms
from gradwire.layout import Layout, Turn
from gradwire.registry import part
from gradwire.vector import Sent


@part("warmup", "memory", example="ef(warmup(deft(density=0.01), steps=400, start=0.25, factor=4.0))")
@dataclass(frozen=True)
class Warmup:
    """Run an exchange at the densities start, start / factor, ... above its own, then at its own.

    Args:
        exchange: the exchange to run after the warm-up. Exactly one part of it has a `density`, and its state must be
            valid for any density.
        steps: length of the warm-up: with S stages, synchronisation t < steps runs stage t S // steps.
        start: density of the first stage. Stages that are not above the exchange's own density are left out.
        factor: every stage divides the density by this number, which is greater than 1.
    """

    exchange: Exchange
    steps: int
    start: float = 0.25
    factor: float = 4.0

    def __post_init__(self) -> None:
        check_exchange(self.exchange, "warmup")
        check_whole("steps", self.steps)
        if not is_number(self.start) or not 0 < self.start <= 1:
            raise ValueError(f"start must lie in (0, 1], got {self.start!r}")
        if not is_number(self.factor) or not 1 < self.factor < math.inf:
            raise ValueError(f"factor must be a number greater than 1, got {self.factor!r}")
        object.__setattr__(self, "start", float(self.start))
        object.__setattr__(self, "factor", float(self.factor))
        if (found := len(list(_densities(self.exchange)))) != 1:
            raise ValueError(f"warmup needs an exchange with exactly one density, and {self.exchange} has {found}")

    @cached_property
    def stages(self) -> int:
        """The number of stages: densities above the exchange's own."""
        (final,) = _densities(self.exchange)
        if self.start <= final:
            return 0
        stages = max(1, round(math.log(self.start / final) / math.log(self.factor)))
        while self._density(stages) > final:  # the logarithms are rounded, so the estimate may be off
            stages += 1
        while self._density(stages - 1) <= final:
            stages -= 1
        return stages

    def at(self, step: int) -> Exchange:
        """Return the exchange of synchronisation `step`, counted from 0."""
        stage = step * self.stages // self.steps
        return _stage(self.exchange, self._density(stage)) if stage < self.stages else self.exchange

    def _density(self, stage: int) -> float:
        return self.start / self.factor**stage

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        """Make the exchange's state, which all stages share."""
        return self.exchange.init(layout, dtype, device, batch_shape)

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Run the current stage's exchange."""
        return await self.at(turn.step)(x, state, turn)

    def wants_largest(self, turn: Turn) -> int:
        """Return that of the current stage."""
        return wants_largest(self.at(turn.step), turn)

    def wants_norms(self, turn: Turn) -> Sequence[tuple[int, int]]:
        """Return that of the current stage."""
        return wants_norms(self.at(turn.step), turn)

    async def change(self, state: State, change: Change) -> None:
        """Change the inner exchange's state."""
        await change_(self.exchange, state, change)

    def omega(self, d: int) -> float | None:
        """Return the larger of the first stage's and the exchange's, the extremes; None if one is biased."""
        return _worst(max, [stage.omega(d) for stage in (self.at(0), self.exchange)])

    def delta(self, d: int) -> float | None:
        """Return the smaller of the first stage's and the exchange's, the extremes; None if one may expand."""
        return _worst(min, [stage.delta(d) for stage in (self.at(0), self.exchange)])


def _densities(part: Any) -> Iterator[float]:
    """Yield every density in a tree of dataclasses."""
    if is_dataclass(part):
        for field in fields(part):
            value = getattr(part, field.name)
            if field.name == "density":
                yield value
            else:
                yield from _densities(value)


def _at(part: Any, density: float) -> Any:
    """Return the tree with another density; parts without a density stay the same objects."""
    if not any(True for _ in _densities(part)):
        return part
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    changed = {name: density if name == "density" else _at(value, density) for name, value in values.items()}
    return replace(part, **changed)


_stage = lru_cache(maxsize=64)(_at)


def _worst(which: Callable[[list[float]], float], constants: list[float | None]) -> float | None:
    known = [constant for constant in constants if constant is not None]
    return which(known) if len(known) == len(constants) else None
