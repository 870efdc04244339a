"""Differences: every worker sends the change of its vector since the last step.

Worker i keeps an estimate g_i, the sum of its messages, and its last vector x_i'. All workers keep the mean g of the
g_i. For a new vector x_i,
    g_i += Q(x_i - x_i' - a (g_i - x_i')),    g += the average of these messages.
With probability p (one draw for all workers), and at the first step, x_i is sent whole and g_i = x_i.

| method | a                 | p             | source                                           |
|--------|-------------------|---------------|--------------------------------------------------|
| MARINA | 0                 | 1 / (1+omega) | Gorbunov et al. 2021, arXiv:2102.07845           |
| DASHA  | 1 / (2 omega + 1) | 0             | Tyurin and Richtárik 2022, arXiv:2202.01268      |

Their theory requires full gradients: with mini-batches, x_i - x_i' also contains the difference of two batches, which
does not vanish.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.ask import AllReduce
from gradwire.exchange.change import Change, change_, replace_
from gradwire.exchange.protocol import NOMINAL, Exchange, State, check_exchange, nest, tensor
from gradwire.layout import Layout, Turn
from gradwire.registry import part
from gradwire.vector import Dense, Sent, widen


@part("difference", "memory", example="difference(randk(density=0.1), a=0.01, p=0.01)")
@dataclass(frozen=True)
class Difference:
    """Send changes, corrected by the fraction a of the estimate's error; the whole vector with probability p.

    By default a = 1 / (2 omega + 1) and p = 1 / (1 + omega). Takes unbiased operators.
    """

    exchange: Exchange
    a: float | None = None
    p: float | None = None

    def __post_init__(self) -> None:
        check_exchange(self.exchange, "difference")
        for name, value in (("a", self.a), ("p", self.p)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")
        if self.exchange.omega(NOMINAL) is None:
            raise ValueError(
                f"marina and dasha need an unbiased operator, and {self.exchange} is biased; use ef21(...)"
            )

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        """Make the estimate and the last vector [*batch_shape, d], and the mean estimate [d], all zero."""
        g, last = (torch.zeros((*batch_shape, layout.d), dtype=dtype, device=device) for _ in range(2))
        mean_g = torch.zeros(layout.d, dtype=dtype, device=device)
        inner = self.exchange.init(layout, dtype, device, batch_shape)
        return {"said": g, "mean_said": mean_g, "last": last, "inner": inner}

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Exchange the change, or, with probability p, x itself by one dense AllReduce. The state changes in place."""
        g, mean_g, last = (tensor(state, name) for name in ("said", "mean_said", "last"))
        if turn.step == 0 or self._sends_whole(turn):
            total = await AllReduce(widen(x))
            g.copy_(x)
            mean_g.copy_(total).div_(turn.size)
        else:
            change = widen(x) - last
            if (a := self._a(turn.layout.d)) > 0:
                change.add_(g - last, alpha=-a)
            sent = await self.exchange(change, nest(state, "inner"), turn)
            sent.own.add_to_(g)
            sent.mean.add_to_(mean_g)
        last.copy_(x)
        return Sent(own=Dense(g), mean=Dense(mean_g))

    async def change(self, state: State, change: Change) -> None:
        """Let all workers continue from the mean estimate, as if it had been each one's last vector."""
        await replace_(state, "mean_said", change)
        for name in ("said", "last"):
            tensor(state, name).copy_(tensor(state, "mean_said"))
        await change_(self.exchange, nest(state, "inner"), change)

    def omega(self, d: int) -> float | None:
        """Return None: `own` also depends on past vectors."""
        return None

    def delta(self, d: int) -> float | None:
        """Return None: `own` may be larger than x."""
        return None

    def _a(self, d: int) -> float:
        return self.a if self.a is not None else 1 / (2 * (self.exchange.omega(d) or 0.0) + 1)

    def _sends_whole(self, turn: Turn) -> bool:
        p = self.p if self.p is not None else 1 / (1 + (self.exchange.omega(turn.layout.d) or 0.0))
        return p > 0 and torch.rand((), generator=turn.fork("coin").rng(shared=True)).item() < p


@part("marina", "memory", example="marina(randk(density=0.1))")
def MARINA(exchange: Exchange, p: float | None = None) -> Difference:
    """MARINA (Gorbunov et al. 2021, arXiv:2102.07845): unbiased operators, whole vectors with probability p."""
    return Difference(exchange, a=0.0, p=p)


@part("dasha", "memory", example="dasha(randk(density=0.1))")
def DASHA(exchange: Exchange, a: float | None = None) -> Difference:
    """DASHA (Tyurin and Richtárik 2022, arXiv:2202.01268): unbiased operators, only the first vector sent whole."""
    return Difference(exchange, a=a, p=0.0)
