"""Deep gradient compression: momentum inside the memory, so that values sent late are sent with their momentum.

Lin et al. 2018, arXiv:1712.01887. With m the momentum and g a worker's gradient:
    u = m u + g,    v = v + u,    own = what the exchange sends of v,    v = v - own,    u = 0 where own is sent.
The last is the paper's momentum factor masking: the momentum of values just sent would push in a stale direction. So a
coordinate that is sent at every step has no momentum at all. The workers' residuals are conserved: the sum of v before
the exchange is n times the mean plus the sum of v after it.

The optimizer must have no momentum of its own, because momentum would be applied twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gradwire.checks import is_number
from gradwire.exchange.change import Change, change_, preserve_mean_
from gradwire.exchange.protocol import NOMINAL, Exchange, State, check_exchange, nest, tensor
from gradwire.layout import Layout, Turn
from gradwire.registry import part
from gradwire.vector import Sent, Sparse, Vector, wide


@part("dgc", "memory", example="dgc(warmup(topk(density=0.001), steps=400))")
@dataclass(frozen=True)
class DGC:
    """Momentum-corrected error feedback with masking. Takes contractive operators; no momentum in the optimizer.

    Args:
        exchange: the exchange that averages v; its `delta` must not be None.
        momentum: m in [0, 1).
        clip: if given, every worker scales its own vector to an L2 norm of at most clip / sqrt(n) (the paper's local
            clipping). Under DDP the vector is one unit of the model, not all of it.
    """

    exchange: Exchange
    momentum: float = 0.9
    clip: float | None = None

    def __post_init__(self) -> None:
        check_exchange(self.exchange, "dgc")
        if not is_number(self.momentum) or not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum!r}")
        if self.clip is not None and not (is_number(self.clip) and 0 < self.clip < math.inf):
            raise ValueError(f"clip must be none or a positive number, got {self.clip!r}")
        object.__setattr__(self, "momentum", float(self.momentum))
        object.__setattr__(self, "clip", None if self.clip is None else float(self.clip))
        self._check(NOMINAL)

    def _check(self, d: int) -> None:
        if self.exchange.delta(d) is None:
            raise ValueError(
                f"dgc needs a contractive operator, and {self.exchange} may expand a vector of {d} elements; wrap an "
                "unbiased compressor in scaled(...), and put no memory inside another"
            )

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        """Make momentum u and residual v, zeros [*batch_shape, d] (ValueError: the exchange may expand a vector)."""
        self._check(layout.d)
        u, v = (torch.zeros((*batch_shape, layout.d), dtype=dtype, device=device) for _ in range(2))
        return {"u": u, "v": v, "inner": self.exchange.init(layout, dtype, device, batch_shape)}

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Exchange v; u and v change in place."""
        g = x if self.clip is None else _clip(x, self.clip / math.sqrt(turn.size))
        u = tensor(state, "u").mul_(self.momentum).add_(g)
        v = tensor(state, "v").add_(u)
        sent = await self.exchange(v, nest(state, "inner"), turn)
        sent.own.add_to_(v, alpha=-1.0)
        _mask_(u, v, sent.own)
        return sent

    async def change(self, state: State, change: Change) -> None:
        """Preserve the workers' mean residual and mean momentum (`preserve_mean_`)."""
        for name in ("u", "v"):
            preserve_mean_(tensor(state, name), change)
        await change_(self.exchange, nest(state, "inner"), change)

    def omega(self, d: int) -> float | None:
        """Return None: `own` also contains past vectors."""
        return None

    def delta(self, d: int) -> float | None:
        """Return None: because of the memory, `own` may be larger than x."""
        return None


def _mask_(u: Tensor, v: Tensor, own: Vector) -> None:
    """Set u f[..., d] to 0 where `own` was sent, in place: where `own` is not 0, and at entries of a sparse `own`.

    `v` is the residual after the step. A sparse entry of value 0 with a residual left is padding, and was not sent.
    """
    if isinstance(own, Sparse):
        padding = (own.values == 0) & (v.gather(-1, own.indices) != 0)
        u.scatter_reduce_(-1, own.indices, padding.to(u.dtype), "prod")  # one sent entry among equal indices suffices
    else:
        u.masked_fill_(own.dense() != 0, 0.0)


def _clip(x: Tensor, limit: float) -> Tensor:
    """Scale every row f[d] of f[..., d] down to an L2 norm of at most `limit`; norms are computed in float64."""
    norm = cast(Tensor, torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float64))
    return x * (limit / norm.clamp(min=limit)).to(wide(x.dtype))
