"""Error feedback: remember what was not said, and say it later.

EF14 (Seide et al. 2014; Stich et al. 2018, arXiv:1809.07599; Karimireddy et al. 2019, arXiv:1901.09847), with the
learning rate outside the memory: send g + error, then error = g + error - own. What the workers hold is conserved: the
sum of the accumulators is n times the mean plus the sum of the errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.exchange.protocol import NOMINAL, Exchange, State, check_exchange, nest, tensor
from gradwire.layout import Layout, Turn
from gradwire.vector import Sent


@dataclass(frozen=True)
class EF:
    """Error feedback: carry what was not sent into the next step. Takes contractive operators."""

    exchange: Exchange

    def __post_init__(self) -> None:
        check_exchange(self.exchange, "ef")
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
        lead: tuple[int, ...] = (),
    ) -> State:
        """No error yet: zeros [*lead, d]. Refuses what contracts elsewhere but not in so small a dimension."""
        self._check(layout.d)
        error = torch.zeros((*lead, layout.d), dtype=dtype, device=device)
        return {"error": error, "inner": self.exchange.init(layout, dtype, device, lead)}

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Exchange x + error; one pass to accumulate and k writes to forget, no dense temporary."""
        error = tensor(state, "error").add_(x)
        sent = await self.exchange(error, nest(state, "inner"), turn)
        sent.own.add_to_(error, alpha=-1.0)
        return sent

    def omega(self, d: int) -> float | None:
        """None: biased in every single step, unless nothing is lost."""
        return 0.0 if self.exchange.omega(d) == 0.0 else None

    def delta(self, d: int) -> float | None:
        """None: with its memory, what is said may be larger than x."""
        return None
