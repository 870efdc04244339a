"""Anchored units: tensors that move away from a common anchor by local steps, and are synchronised with it.

The exchange averages x = anchor - tensors. A unit keeps the anchor, the exchange's memory and the outer step's state. x
and a backup of the memory exist only while the unit is exchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor

from gradwire import checkpoint, kernels
from gradwire.engine.bundles import VectorSpec
from gradwire.engine.shards import shard
from gradwire.exchange import Exchange, State
from gradwire.exchange.protocol import Accumulates, flatten, forget_
from gradwire.exchange.step import step
from gradwire.exchange.undo import keep_, logged, restore_
from gradwire.layout import Layout, Turn
from gradwire.outer import Outer
from gradwire.vector import wide

CatchUp: TypeAlias = Literal["add", "mix", "drop"]
"""How local steps that were taken during an exchange count; see `Anchored.catch_up`."""

ALPHA = 0.5
"""Weight of the tensors in "mix", as in Streaming DiLoCo (Douillard et al. 2025, arXiv:2501.18512)."""


class Anchored:
    """Tensors that are exchanged together, and their anchor: the last values that all workers had in common.

    Args:
        named: the tensors by name, of one dtype and device. Of a sharded tensor this rank's shard is exchanged.
        exchange: its `init` makes the memory.
        outer: the outer step; its `init` makes the outer state.
        device: the device of anchor, memory and outer state.

    Attributes:
        anchor: f[d], at least float32; the same on all workers.
        memory, outer: states of the exchange and of the outer step.
        held: f[d] in the tensors' dtype, a copy of the tensors from the start of an exchange during which they change;
            None if they do not change during it.
    """

    def __init__(
        self, named: Sequence[tuple[str, Tensor]], exchange: Exchange, outer: Outer, device: torch.device
    ) -> None:
        self.layout = Layout([name for name, _ in named], [tuple(shard(tensor).shape) for _, tensor in named])
        self.tensors = tuple(tensor for _, tensor in named)
        kept = wide(self.dtype)
        self.anchor = torch.empty(self.layout.d, dtype=kept, device=device)
        self.memory = exchange.init(self.layout, kept, device)
        self.outer = outer.init(self.layout, kept, device)
        self.held: Tensor | None = None
        self.start()

    @property
    def dtype(self) -> torch.dtype:
        """The tensors' dtype, which `module.to` may change at any time."""
        return self.tensors[0].dtype

    @property
    def vector(self) -> VectorSpec:
        """Layout, dtype and device of the anchor, and of the difference to it."""
        return VectorSpec(self.layout, self.anchor.dtype, self.anchor.device)

    def start(self) -> None:
        """Copy the tensors to the anchor."""
        self._read(self.anchor)

    def restart(self, exchange: Exchange, outer: Outer) -> None:
        """Copy the tensors to the anchor, and initialise memory and outer state."""
        self.start()
        self.memory = exchange.init(self.layout, self.anchor.dtype, self.anchor.device)
        self.outer = outer.init(self.layout, self.anchor.dtype, self.anchor.device)
        self.held = None

    def hold(self) -> None:
        """Copy the tensors to `held`, so that they can change while their difference is exchanged."""
        if self.held is None:
            self.held = torch.empty(self.layout.d, dtype=self.dtype, device=self.anchor.device)
        self._read(self.held)

    def finite(self) -> bool:
        """Whether all values of the tensors, or of `held` if there is a copy, are finite."""
        parts = [shard(tensor) for tensor in self.tensors] if self.held is None else [self.held]
        return all(bool(kernels.finite(part.reshape(-1))) for part in parts if part.numel())

    async def average(self, exchange: Exchange, outer: Outer, turn: Turn, x: Tensor) -> None:
        """Exchange the difference to the anchor, and move the anchor. If that raises, anchor and memory are unchanged.

        x f[d] is overwritten by the difference.
        """
        self._subtract(x)
        made = exchange.accumulate([x], self.memory, turn) if isinstance(exchange, Accumulates) else None
        if made is None:
            keep_(self.memory, logged(exchange))
        try:
            # An exchange that has accumulated x itself takes the Accumulated.
            sent = await step(exchange, x if made is None else cast(Tensor, made), self.memory, turn)
        except BaseException:  # a transport that fails closes the coroutine
            if made is not None and isinstance(exchange, Accumulates):
                exchange.rollback(self.memory)
            else:
                restore_(self.memory)
            raise
        finally:
            forget_(self.memory)
        outer(self.anchor, sent.mean, self.outer, turn.size)

    def catch_up(self, how: CatchUp, *, moved: bool) -> None:
        """Move the tensors after an exchange: to the anchor, or, if they changed during it (`held`), as `how` says.

        "add": by anchor - held. "mix": to the midpoint of tensors and anchor. "drop": to the anchor. Nothing moves
        unless `moved`, the anchor's. `held` becomes None.
        """
        if moved:
            before = [None] * len(self.tensors) if self.held is None else self._cut(self.held)
            for (tensor, anchor), held in zip(self._pairs(self.anchor), before, strict=True):
                there = anchor.to(tensor.device, tensor.dtype)
                if held is None or how == "drop":
                    tensor.copy_(there)
                elif how == "mix":
                    tensor.mul_(ALPHA).add_(there, alpha=1.0 - ALPHA)
                else:
                    tensor.add_(there - held.to(tensor.device))
        self.held = None

    def replicas(self) -> list[Tensor]:
        """Return the tensors that are the same on all workers: the anchor, and those of the outer step's state."""
        return [self.anchor, *(values for *_, values in flatten(self.outer))]

    def named(self, *, held: bool, copy: bool) -> dict[str, dict[str, Tensor]]:
        """Return what a checkpoint stores: {parameter: {dotted name: tensor}}, with the copy `held` if asked for.

        Unless `copy`, the tensors share memory with the unit and the model, and must not be written.
        """
        state = self._state()
        if held and self.held is not None:
            state["held"] = self.held.to(self.anchor.dtype)
        parts = checkpoint.by_name(state, self.layout, copy=copy)
        for name, tensor in zip(self.layout.names, self.tensors, strict=True):
            params = shard(tensor).to(self.anchor.device, self.anchor.dtype, copy=copy)
            parts[name] |= {"params": params, "held": params} if held and self.held is None else {"params": params}
        return parts

    def read(self, memory: Mapping[str, Mapping[str, Tensor]], *, held: bool) -> State:
        """Read what `named` returned into new tensors, for `load`."""
        like = self._state() | dict.fromkeys(["params", "held"] if held else ["params"], self.anchor)
        return checkpoint.read(like, self.layout, memory)

    def load(self, state: State) -> None:
        """Overwrite tensors, anchor, memory and outer state with what `read` returned."""
        self.memory.update(cast(State, state["memory"]))
        self.outer.update(cast(State, state["outer"]))
        self.anchor.copy_(cast(Tensor, state["anchor"]))
        for tensor, values in self._pairs(cast(Tensor, state["params"])):
            tensor.copy_(values)
        if "held" in state:
            self.held = cast(Tensor, state["held"]).to(self.dtype)

    def _state(self) -> State:
        return {"anchor": self.anchor, "memory": self.memory, "outer": self.outer}

    def _pairs(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return every tensor's current memory with its part of a flat vector f[d], in the tensor's shape."""
        return [(shard(tensor), part) for tensor, part in zip(self.tensors, self._cut(flat), strict=True)]

    def _cut(self, flat: Tensor) -> list[Tensor]:
        return list(self.layout.cut(flat).values())

    def _read(self, flat: Tensor) -> None:
        """Copy the tensors to a flat vector f[d]."""
        for tensor, part in self._pairs(flat):
            part.copy_(tensor)

    def _subtract(self, x: Tensor) -> None:
        """Write anchor - tensors to x f[d]. Half-precision tensors started at the rounded anchor."""
        if self.held is not None:
            x.copy_(self.held)
        anchor = self.anchor if self.dtype == self.anchor.dtype else self.anchor.to(self.dtype).to(self.anchor.dtype)
        for (tensor, part), start in zip(self._pairs(x), self._cut(anchor), strict=True):
            if self.held is None and tensor.dtype == part.dtype and tensor.device == part.device:
                torch.sub(start, tensor, out=part)
                continue
            if self.held is None:
                part.copy_(tensor)
            torch.sub(start, part, out=part)
