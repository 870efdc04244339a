"""Error feedback: remember what was not sent, and send it later.

EF14 (Seide et al. 2014; Stich et al. 2018, arXiv:1809.07599; Karimireddy et al. 2019, arXiv:1901.09847), with the
learning rate outside the memory: send g + error, then error = g + error - own. What the workers hold is conserved: the
sum of the accumulators is n times the mean plus the sum of the errors.

Three options; `decay` and `beta` are two ways to forget, and at most one may be set:
  decay         SparseLoCo's (Sarfi et al. 2025, arXiv:2508.15706: 0.95; also DeMo, Peng et al. 2024, arXiv:2411.19870:
                0.999, and MuLoCo, arXiv:2505.23725: 0.9): send a = g + decay error, then
                error = a - own. Below 1 nothing is conserved: (1 - decay) error is dropped at every step.
  beta          ScaleCom's low-pass memory (Chen et al. 2020): error = (1 - beta) error + beta (error + g - own). Below
                1 it forgets: (1 - beta) (g - own) is dropped at every step, so nothing is conserved.
  lr_in_memory  DEFT's Algorithm 1 (Yoon and Oh 2023): the error is kept in units of lr * g, so that what was left out
                at a high learning rate is sent in full at a low one: send a = g + error / lr,
                then error = lr (a - own). With a decay, a = g + decay error / lr.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.checks import is_number
from gradwire.exchange.change import Change, change_, owe_
from gradwire.exchange.protocol import (
    BEFORE,
    NOMINAL,
    Exchange,
    State,
    check_exchange,
    clone,
    copy_,
    nest,
    tensor,
    wants_largest,
    wants_norms,
)
from gradwire.kernels import Accumulated
from gradwire.layout import Layout, Turn
from gradwire.registry import part
from gradwire.reprs import quiet
from gradwire.vector import Sent


@part("ef", "memory", example="ef(deft(density=0.01))")
@quiet("beta", "lr_in_memory", "decay")
@dataclass(frozen=True)
class EF:
    """Error feedback: carry what was not sent into the next step. Takes contractive operators.

    Args:
        exchange: what averages, with a delta.
        beta: in (0, 1], how much of the newest error enters the memory; 1 keeps all that was not sent.
        lr_in_memory: keep the error in units of lr * g. Turns must then tell `lr`.
        decay: in (0, 1], the factor of the old error before x is added; 1 forgets nothing.
    """

    exchange: Exchange
    beta: float = 1.0
    lr_in_memory: bool = False
    decay: float = 1.0

    def __post_init__(self) -> None:
        check_exchange(self.exchange, "ef")
        if not is_number(self.beta) or not 0 < self.beta <= 1:
            raise ValueError(f"beta must lie in (0, 1], got {self.beta!r}")
        if not is_number(self.decay) or not 0 < self.decay <= 1:
            raise ValueError(f"decay must lie in (0, 1], got {self.decay!r}")
        if self.beta != 1 and self.decay != 1:
            raise ValueError(f"ef forgets by beta or by decay, got beta={self.beta!r} and decay={self.decay!r}")
        if self.lr_in_memory not in (True, False):
            raise ValueError(f"lr_in_memory must be true or false, got {self.lr_in_memory!r}")
        object.__setattr__(self, "beta", float(self.beta))
        object.__setattr__(self, "decay", float(self.decay))
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
        error = kernels.zeros((*batch_shape, layout.d), dtype, device)
        return {"error": error, "inner": self.exchange.init(layout, dtype, device, batch_shape)}

    async def __call__(self, x: Tensor | Accumulated, state: State, turn: Turn) -> Sent:
        """Exchange x + error: one pass to accumulate, k writes to forget, no dense temporary.

        Of an `Accumulated` the first pass is done: it is the error already. Each option costs a pass or two more.

        Raises:
            ValueError: on all workers alike, `lr_in_memory` without a learning rate above 0.
        """
        error, lr = tensor(state, "error"), self._lr(turn)
        if lr != 1.0:
            error.div_(lr)
        if not isinstance(x, Accumulated):
            (error if self.decay == 1.0 else error.mul_(self.decay)).add_(x)
        reads = wants_largest(self.exchange, turn) or wants_norms(self.exchange, turn)
        # An exchange that wants to know nothing more is given the tensor alone, which is what the protocol promises it.
        given = x if isinstance(x, Accumulated) and reads else error
        sent = await self.exchange(cast(Tensor, given), nest(state, "inner"), turn)
        # With error = m + g by now, (1 - beta) m + beta (m + g - own) is this much less.
        sent.own.add_to_(error, alpha=-self.beta)
        if self.beta != 1.0:
            error.add_(kernels.values(x), alpha=self.beta - 1.0)
        if lr != 1.0:
            error.mul_(lr)
        return sent

    def accumulate(self, pieces: Sequence[Tensor], state: State, turn: Turn) -> Accumulated | None:
        """Compute decay * error + pieces into a second buffer, which is the error from now on; the first one is kept.

        None with beta or lr_in_memory: they scale the old error, or need x by itself.
        """
        if self.beta != 1.0 or self.lr_in_memory:
            return None
        error, inner = tensor(state, "error"), nest(state, "inner")
        if BEFORE not in state:
            state[BEFORE] = {
                "error": kernels.zeros(tuple(error.shape), error.dtype, error.device),
                "inner": clone(inner),
            }
        before = nest(state, BEFORE)
        copy_(nest(before, "inner"), inner)
        largest, layers = wants_largest(self.exchange, turn), wants_norms(self.exchange, turn)
        made = kernels.accumulate(tensor(before, "error"), error, pieces, largest, self.decay, layers)
        state["error"], before["error"] = made.values, error
        return made

    def rollback(self, state: State) -> None:
        """Exchange the two buffers again; what the exchange inside remembers is copied back."""
        before = nest(state, BEFORE)
        state["error"], before["error"] = before["error"], state["error"]
        copy_(nest(state, "inner"), nest(before, "inner"))

    async def change(self, state: State, change: Change) -> None:
        """The error is owed to the mean."""
        owe_(tensor(state, "error"), change)
        await change_(self.exchange, nest(state, "inner"), change)

    def _lr(self, turn: Turn) -> float:
        """The factor of g in the memory."""
        if not self.lr_in_memory:
            return 1.0
        if turn.lr is None or not 0 < turn.lr < math.inf:
            raise ValueError(f"ef with lr_in_memory needs the step's learning rate, lr=..., above 0, got {turn.lr}")
        return turn.lr

    def omega(self, d: int) -> float | None:
        """None: biased in every single step, unless nothing is lost."""
        return 0.0 if self.exchange.omega(d) == 0.0 else None

    def delta(self, d: int) -> float | None:
        """None: with its memory, what is sent may be larger than x."""
        return None
