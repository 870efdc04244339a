"""Differences: every worker sends how its vector has changed since the last step.

Worker i keeps what it has said, g_i, and its last vector x_i'; everybody keeps the mean g of the g_i. With x_i new,
    g_i += Q(x_i - x_i' - a (g_i - x_i')),    g likewise by the average,
and with probability p (one coin for all workers), and at the first step, g_i = x_i, sent whole.

| method | a                 | p             | source                                           |
|--------|-------------------|---------------|--------------------------------------------------|
| MARINA | 0                 | 1 / (1+omega) | Gorbunov et al. 2021, arXiv:2102.07845           |
| DASHA  | 1 / (2 omega + 1) | 0             | Tyurin and Richtárik 2022, arXiv:2202.01268      |

Their theory takes full gradients; with mini-batches x_i and x_i' differ by the batch as well, which does not vanish.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.ask import AllReduce
from gradwire.exchange.protocol import NOMINAL, Exchange, State, check_exchange, nest, tensor
from gradwire.layout import Layout, Turn
from gradwire.registry import part
from gradwire.vector import Dense, Sent, widen


@part("difference", "memory", example="difference(randk(density=0.1), a=0.01, p=0.01)")
@dataclass(frozen=True)
class Difference:
    """Send changes, corrected by a share a of what has been said wrong, and all of it with probability p.

    By default a = 1 / (2 omega + 1) and p = 1 / (1 + omega).
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
        """What was said and the last vector [*batch_shape, d], and the mean of what was said [d], all zero."""
        said, last = (torch.zeros((*batch_shape, layout.d), dtype=dtype, device=device) for _ in range(2))
        mean_said = torch.zeros(layout.d, dtype=dtype, device=device)
        inner = self.exchange.init(layout, dtype, device, batch_shape)
        return {"said": said, "mean_said": mean_said, "last": last, "inner": inner}

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """One exchange of the change, or one dense AllReduce. Everything moves in place."""
        said, mean_said, last = (tensor(state, name) for name in ("said", "mean_said", "last"))
        if turn.step == 0 or self._heads(turn):
            total = await AllReduce(widen(x))
            said.copy_(x)
            mean_said.copy_(total).div_(turn.size)
        else:
            change = widen(x) - last
            if (a := self._a(turn.layout.d)) > 0:
                change.add_(said - last, alpha=-a)
            sent = await self.exchange(change, nest(state, "inner"), turn)
            sent.own.add_to_(said)
            sent.mean.add_to_(mean_said)
        last.copy_(x)
        return Sent(own=Dense(said), mean=Dense(mean_said))

    def omega(self, d: int) -> float | None:
        """None: what is said follows x with a memory."""
        return None

    def delta(self, d: int) -> float | None:
        """None: what is said may be larger than x."""
        return None

    def _a(self, d: int) -> float:
        return self.a if self.a is not None else 1 / (2 * (self.exchange.omega(d) or 0.0) + 1)

    def _heads(self, turn: Turn) -> bool:
        p = self.p if self.p is not None else 1 / (1 + (self.exchange.omega(turn.layout.d) or 0.0))
        return p > 0 and torch.rand((), generator=turn.fork("coin").rng(shared=True)).item() < p


@part("marina", "memory", example="marina(randk(density=0.1))")
def MARINA(exchange: Exchange, p: float | None = None) -> Difference:
    """MARINA (Gorbunov et al. 2021, arXiv:2102.07845): unbiased operators, everything sent with probability p."""
    return Difference(exchange, a=0.0, p=p)


@part("dasha", "memory", example="dasha(randk(density=0.1))")
def DASHA(exchange: Exchange, a: float | None = None) -> Difference:
    """DASHA (Tyurin and Richtárik 2022, arXiv:2202.01268): unbiased operators, nothing whole but the first."""
    return Difference(exchange, a=a, p=0.0)
