"""Error feedback: remember what was not said, and say it later.

EF14 (Seide et al. 2014; Stich et al. 2018, arXiv:1809.07599; Karimireddy et al. 2019, arXiv:1901.09847), with the
learning rate outside the memory: send g + error, then error = g + error - own. What the workers hold is conserved: the
sum of the accumulators is n times the mean plus the sum of the errors.

Two options, alone or together:
  beta          ScaleCom's low-pass memory (Chen et al. 2020): error = (1 - beta) error + beta (error + g - own). Below
                1 it forgets: (1 - beta) (g - own) is dropped at every step, so nothing is conserved.
  lr_in_memory  DEFT's Algorithm 1 (Yoon and Oh 2023): the error is kept in units of lr * g, so that what was owed at a
                high learning rate is paid in full at a low one: send a = g + error / lr, then error = lr (a - own).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.checks import is_number
from gradwire.exchange.protocol import NOMINAL, Exchange, State, check_exchange, nest, tensor
from gradwire.layout import Layout, Turn
from gradwire.registry import part
from gradwire.reprs import quiet
from gradwire.vector import Sent


@part("ef", "memory", example="ef(deft(density=0.01))")
@quiet("beta", "lr_in_memory")
@dataclass(frozen=True)
class EF:
    """Error feedback: carry what was not sent into the next step. Takes contractive operators.

    Args:
        exchange: what averages, with a delta.
        beta: in (0, 1], how much of the newest error enters the memory; 1 keeps all that was not said.
        lr_in_memory: keep the error in units of lr * g. Turns must then tell `lr`.
    """

    exchange: Exchange
    beta: float = 1.0
    lr_in_memory: bool = False

    def __post_init__(self) -> None:
        check_exchange(self.exchange, "ef")
        if not is_number(self.beta) or not 0 < self.beta <= 1:
            raise ValueError(f"beta must lie in (0, 1], got {self.beta!r}")
        if self.lr_in_memory not in (True, False):
            raise ValueError(f"lr_in_memory must be true or false, got {self.lr_in_memory!r}")
        object.__setattr__(self, "beta", float(self.beta))
        object.__setattr__(self, "lr_in_memory", bool(self.lr_in_memory))
        self._check(NOMINAL)

    def _check(self, d: int) -> None:
        if self.exchange.delta(d) is None:
            raise ValueError(
                f"ef needs a contractive operator, and {self.exchange} may expand a vector of {d} elements; wrap an "
                "unbiased compressor in scaled(...), or use diana(...), and put no memory inside another"
            )

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        """No error yet: zeros [*batch_shape, d]. Refuses what contracts elsewhere but not in so small a dimension."""
        self._check(layout.d)
        error = torch.zeros((*batch_shape, layout.d), dtype=dtype, device=device)
        return {"error": error, "inner": self.exchange.init(layout, dtype, device, batch_shape)}

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Exchange x + error; one pass to accumulate, if that is not done, and k writes to forget, no dense temporary.

        Each option costs a pass or two more. Raises ValueError, on all workers alike, where `lr_in_memory` is given no
        learning rate above 0.
        """
        error, lr = tensor(state, "error"), self._unit(turn)
        if lr != 1.0:
            error.div_(lr)
        if turn.given and self.takes is not None:
            error = state[self.takes] = x
        else:
            error.add_(x)
        sent = await self.exchange(error, nest(state, "inner"), turn)
        # With error = m + g by now, (1 - beta) m + beta (m + g - own) is this much less.
        sent.own.add_to_(error, alpha=-self.beta)
        if self.beta != 1.0:
            error.add_(x, alpha=self.beta - 1.0)
        if lr != 1.0:
            error.mul_(lr)
        return sent

    @property
    def takes(self) -> str | None:
        """An x that is given becomes the error; not with options, which scale the old error or need x by itself."""
        return "error" if self.beta == 1.0 and not self.lr_in_memory else None

    def _unit(self, turn: Turn) -> float:
        """By what g is multiplied in the memory."""
        if not self.lr_in_memory:
            return 1.0
        if turn.lr is None or not 0 < turn.lr < math.inf:
            raise ValueError(f"ef with lr_in_memory needs the step's learning rate, lr=..., above 0, got {turn.lr}")
        return turn.lr

    def omega(self, d: int) -> float | None:
        """None: biased in every single step, unless nothing is lost."""
        return 0.0 if self.exchange.omega(d) == 0.0 else None

    def delta(self, d: int) -> float | None:
        """None: with its memory, what is said may be larger than x."""
        return None
