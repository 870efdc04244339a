"""Anchored units: tensors that wander from a common anchor, and are brought back to it.

x = anchor - tensors is one more vector for an exchange. A unit keeps the anchor, the exchange's memory and the outer
step's state. x, and the memory as it was before, live only while the unit is exchanged.
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
"""What becomes of local steps that were taken while an exchange was under way."""

ALPHA = 0.5
"""Part of the tensors' own way in "mix": that of Streaming DiLoCo (Douillard et al. 2025, arXiv:2501.18512)."""


class Anchored:
    """Tensors that are exchanged together, and where they were when all workers last agreed.

    Args:
        named: the tensors by name, of one dtype and device; of what lies on a mesh, this rank's part is exchanged.
        exchange: makes the memory.
        outer: moves the anchor, and makes its own state.
        device: where anchor, memory and outer state live.

    Attributes:
        anchor: f[d], float32 at least; the same on all workers.
        memory, outer: states of the exchange and of the outer step.
        held: f[d] in the tensors' dtype, what they were when the exchange under way began; None if they wait for it.
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
        """The tensors' own, which `module.to` may change at any time."""
        return self.tensors[0].dtype

    @property
    def vector(self) -> VectorSpec:
        """What the anchor is like, and the difference to it."""
        return VectorSpec(self.layout, self.anchor.dtype, self.anchor.device)

    def start(self) -> None:
        """Put the anchor where the tensors are."""
        self._read(self.anchor)

    def restart(self, exchange: Exchange, outer: Outer) -> None:
        """Put the anchor where the tensors are, with states as new."""
        self.start()
        self.memory = exchange.init(self.layout, self.anchor.dtype, self.anchor.device)
        self.outer = outer.init(self.layout, self.anchor.dtype, self.anchor.device)
        self.held = None

    def hold(self) -> None:
        """Copy the tensors, so that they can go on while their difference is exchanged."""
        if self.held is None:
            self.held = torch.empty(self.layout.d, dtype=self.dtype, device=self.anchor.device)
        self._read(self.held)

    def finite(self) -> bool:
        """Whether the tensors, or what was held of them, hold real numbers only."""
        parts = list(map(shard, self.tensors)) if self.held is None else [self.held]
        return all(bool(kernels.finite(part.reshape(-1))) for part in parts if part.numel())

    async def average(self, exchange: Exchange, outer: Outer, turn: Turn, x: Tensor) -> None:
        """Exchange the difference to the anchor, and move the anchor. What fails leaves anchor and memory as they were.

        x is f[d], to be overwritten by the difference.
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
        """After an exchange, put the tensors where the anchor is, or, if they went on meanwhile, as `how` says.

        add: move them by as much as the anchor is away from what was held. mix: halfway. drop: to the anchor.
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
        """What is the same on all workers: the anchor, and the outer step's state."""
        return [self.anchor, *(values for *_, values in flatten(self.outer))]

    def named(self, *, held: bool, copy: bool) -> dict[str, dict[str, Tensor]]:
        """All that a checkpoint needs, what was `held` of the tensors included: {parameter: {dotted name: tensor}}.

        If not `copy`, the memory of unit and model themselves, to be read only.
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
        """Make what `load` takes, of new tensors, out of what `named` has given."""
        like = self._state() | dict.fromkeys(["params", "held"] if held else ["params"], self.anchor)
        return checkpoint.read(like, self.layout, memory)

    def load(self, state: State) -> None:
        """Become what `state` was."""
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
        """Every tensor, where its values lie now, with its part of a flat vector, in its shape."""
        return [(shard(tensor), part) for tensor, part in zip(self.tensors, self._cut(flat), strict=True)]

    def _cut(self, flat: Tensor) -> list[Tensor]:
        return list(self.layout.cut(flat).values())

    def _read(self, flat: Tensor) -> None:
        """Copy the tensors into a flat vector."""
        for tensor, part in self._pairs(flat):
            part.copy_(tensor)

    def _subtract(self, x: Tensor) -> None:
        """x = anchor - tensors. Half-precision tensors began at the anchor's rounding, so that is what is left."""
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
