"""Shifted compression: keep a shift that follows the vector, and send only the difference to it.

DCGD-SHIFT (Shulgin and Richtárik 2022, arXiv:2206.10452): worker i keeps a shift h_i, and all keep the mean shift h,
    m_i = Q(x_i - h_i),    own_i = h_i + m_i,    mean = h + average of m_i,
and a rule moves the shifts. As they approach the vectors, the compression error vanishes.

| method            | rule            | shift                                                                          |
|-------------------|-----------------|--------------------------------------------------------------------------------|
| DCGD              | Fixed()         | stays at 0                                                                     |
| DCGD-FIXED        | Fixed()         | stays where `start_` has put it, such as at the gradients of the first point   |
| DCGD-STAR         | Fixed()         | the same, at the gradients of the optimum s_i; over Induced(C, Q) the message  |
|                   |                 | carries C(x_i - s_i) as well, which is the paper's shift s_i + C(x_i - s_i)    |
| DIANA             | Follow(alpha)   | h_i += alpha m_i, unbiased Q, alpha <= 1 / (1 + omega) (Mishchenko et al. 2019)|
| generalised DIANA | Follow(alpha)   | the same over Induced(C, Q)                                                    |
| EF21              | Follow(1)       | h_i += m_i, contractive Q (Richtárik et al. 2021)                              |
| EF-BV             | Follow(lam, nu) | h_i += lam m_i, and own_i = h_i + nu m_i (Condat, Yi and Richtárik 2022)       |
| Rand-DIANA        | Restart(p)      | h_i = x_i with probability p, all workers at once, unbiased Q                  |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gradwire.ask import AllReduce
from gradwire.exchange.change import Change, change_, replace_
from gradwire.exchange.protocol import NOMINAL, Exchange, State, check_exchange, nest, tensor
from gradwire.exchange.undo import log_
from gradwire.layout import Layout, Turn
from gradwire.registry import part
from gradwire.vector import Dense, Offset, Sent, widen


@runtime_checkable
class Rule(Protocol):
    """How shifts move after a message."""

    def check(self, exchange: Exchange, d: int) -> None:
        """Refuse an exchange that the rule's theory does not cover in dimension d (ValueError)."""
        ...

    async def move_(self, h: Tensor, mean_h: Tensor, x: Tensor, sent: Sent, turn: Turn, exchange: Exchange) -> Sent:
        """Move both shifts in place, and return the step's result: old h + own and old mean_h + mean."""
        ...


@part("shifted", "memory", example="shifted(natural, follow())")
@dataclass(frozen=True)
class Shifted:
    """Send the difference to a shift; the rule moves the shift."""

    exchange: Exchange
    rule: Rule

    def __post_init__(self) -> None:
        check_exchange(self.exchange, "shifted")
        self.rule.check(self.exchange, NOMINAL)

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        """Make both shifts, zeros: h [*batch_shape, d] and mean_h [d]."""
        self.rule.check(self.exchange, layout.d)
        h = torch.zeros((*batch_shape, layout.d), dtype=dtype, device=device)
        mean_h = torch.zeros(layout.d, dtype=dtype, device=device)
        return {"h": h, "mean_h": mean_h, "inner": self.exchange.init(layout, dtype, device, batch_shape)}

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Exchange x - h, then let the rule move h and mean_h."""
        h, mean_h = tensor(state, "h"), tensor(state, "mean_h")
        sent = await self.exchange(widen(x) - h, nest(state, "inner"), turn)
        log_(state, "h", sent.own)
        log_(state, "mean_h", sent.mean)
        return await self.rule.move_(h, mean_h, x, sent, turn, self.exchange)

    def logged(self) -> frozenset[str]:
        """Return both shifts' names if the rule moves them by the message, of which a sparse one is cheap to log."""
        return frozenset({"h", "mean_h"}) if isinstance(self.rule, Follow) else frozenset()

    async def change(self, state: State, change: Change) -> None:
        """Set every shift to the mean shift, which is sent to the workers that join."""
        await replace_(state, "mean_h", change)
        tensor(state, "h").copy_(tensor(state, "mean_h"))
        await change_(self.exchange, nest(state, "inner"), change)

    def omega(self, d: int) -> float | None:
        """Return 0 if nothing is lost, else None: the variance is relative to x - h, not to x."""
        return 0.0 if self.exchange.omega(d) == 0.0 else None

    def delta(self, d: int) -> float | None:
        """Return None: because of the memory, `own` may be larger than x."""
        return None


@part("fixed", "rule", example="shifted(randk(density=0.1), fixed())")
@dataclass(frozen=True)
class Fixed:
    """Leave the shifts where they are (DCGD, DCGD-FIXED)."""

    def check(self, exchange: Exchange, d: int) -> None:
        """Accept any operator."""

    async def move_(self, h: Tensor, mean_h: Tensor, x: Tensor, sent: Sent, turn: Turn, exchange: Exchange) -> Sent:
        """Return the step's result; both shifts stay."""
        return Sent(own=Offset(h, sent.own, 1.0), mean=Offset(mean_h, sent.mean, 1.0))


@part("follow", "rule", example="shifted(randk(density=0.1), follow(alpha=0.1))")
@dataclass(frozen=True)
class Follow:
    """Move the shifts by alpha times the message: DIANA, by default at alpha = 1 / (1 + omega), or EF21 at 1.

    `nu` scales the message in the step's result, h + nu * message (EF-BV); it is 1 by default.
    """

    alpha: float | None = None
    nu: float | None = None

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must lie in (0, 1], got {self.alpha}")
        if self.nu is not None and not 0 < self.nu <= 1:
            raise ValueError(f"nu must lie in (0, 1], got {self.nu}")

    def check(self, exchange: Exchange, d: int) -> None:
        """Refuse an exchange that the theory of the method chosen by alpha and nu does not cover (ValueError)."""
        if self.nu is not None and self.alpha is not None:
            self._check_ef_bv(exchange, d, self.alpha)
        else:
            self._check_diana_or_ef21(exchange, d)

    def _check_ef_bv(self, exchange: Exchange, d: int, lam: float) -> None:
        """Refuse an operator that is biased and may expand, and a lam with which the shifts would diverge.

        For unbiased operators the shifts' squared error is multiplied by (1 - lam)^2 + lam^2 omega; for contractive
        ones it always decreases.
        """
        omega, delta = exchange.omega(d), exchange.delta(d)
        if omega is None and delta is None:
            raise ValueError(f"ef-bv needs an unbiased or a contractive operator, and {exchange} is neither")
        if d != NOMINAL and omega is not None and delta is None and lam * (1 + omega) >= 2:
            raise ValueError(
                f"lam must be below 2 / (1 + omega) = {2 / (1 + omega):.6g} for {exchange} in dimension {d}, got {lam}"
            )

    def _check_diana_or_ef21(self, exchange: Exchange, d: int) -> None:
        """Refuse alpha = 1 for an operator that may expand, any other for a biased one, and alpha > 1 / (1 + omega)."""
        omega, delta = exchange.omega(d), exchange.delta(d)
        if self.alpha == 1.0 and delta is None:
            raise ValueError(
                f"follow(alpha=1.0) is EF21 and needs a contractive operator, and {exchange} may expand a vector; "
                "use diana(...), or wrap its compressor in scaled(...)"
            )
        if self.alpha != 1.0 and omega is None:
            raise ValueError(
                f"follow(alpha={self.alpha}) is DIANA and needs an unbiased operator, and {exchange} is biased; "
                "use ef21(...), which is follow(alpha=1.0)"
            )
        if d != NOMINAL and self.alpha is not None and omega is not None and delta is None:
            limit = 1 / (1 + omega)
            if self.alpha > limit * (1 + 1e-12):
                raise ValueError(
                    f"alpha must be at most 1 / (1 + omega) = {limit:.6g} for {exchange} in dimension {d}, "
                    f"got {self.alpha}"
                )

    async def move_(self, h: Tensor, mean_h: Tensor, x: Tensor, sent: Sent, turn: Turn, exchange: Exchange) -> Sent:
        """h += alpha own and mean_h += alpha mean, in place; return the step's result."""
        alpha = self.alpha if self.alpha is not None else 1 / (1 + (exchange.omega(turn.layout.d) or 0.0))
        sent.own.add_to_(h, alpha)
        sent.mean.add_to_(mean_h, alpha)
        # h before the step plus nu times the message is the new h plus (nu - alpha) times the message.
        rest = (1.0 if self.nu is None else self.nu) - alpha
        return Sent(own=Offset(h, sent.own, rest), mean=Offset(mean_h, sent.mean, rest))


@part("restart", "rule", example="shifted(randk(density=0.1), restart(p=0.05))")
@dataclass(frozen=True)
class Restart:
    """Set the shifts to the vectors themselves with probability p: Rand-DIANA. By default p = 1 / (1 + omega).

    All workers share one draw: a step that restarts costs one dense AllReduce, the other steps nothing.
    """

    p: float | None = None

    def __post_init__(self) -> None:
        if self.p is not None and not 0 < self.p <= 1:
            raise ValueError(f"p must lie in (0, 1], got {self.p}")

    def check(self, exchange: Exchange, d: int) -> None:
        """Refuse biased operators (ValueError)."""
        if exchange.omega(d) is None:
            raise ValueError(
                f"restart is Rand-DIANA and needs an unbiased operator, and {exchange} is biased; use ef21(...)"
            )

    async def move_(self, h: Tensor, mean_h: Tensor, x: Tensor, sent: Sent, turn: Turn, exchange: Exchange) -> Sent:
        """With probability p set h = x and mean_h += mean of x - h, in place; return the step's result."""
        p = self.p if self.p is not None else 1 / (1 + (exchange.omega(turn.layout.d) or 0.0))
        uniform = torch.rand((), generator=turn.fork("restart").rng(shared=True)).item()
        if uniform >= p:
            return Sent(own=Offset(h, sent.own, 1.0), mean=Offset(mean_h, sent.mean, 1.0))
        sent_now = Sent(own=Dense(Offset(h, sent.own, 1.0).dense()), mean=Dense(Offset(mean_h, sent.mean, 1.0).dense()))
        total = await AllReduce(x - h)
        mean_h.add_(total, alpha=1 / turn.size)
        h.copy_(x)
        return sent_now


@part("diana", "memory", example="diana(randk(density=0.1))")
def DIANA(exchange: Exchange, alpha: float | None = None) -> Shifted:
    """DIANA (Mishchenko et al. 2019, arXiv:1901.09269): unbiased operators, alpha <= 1 / (1 + omega)."""
    return Shifted(exchange, Follow(alpha))


@part("ef21", "memory", example="ef21(topk(density=0.01))")
def EF21(exchange: Exchange) -> Shifted:
    """EF21 (Richtárik et al. 2021, arXiv:2106.05203): contractive operators, shifts move by the whole message."""
    return Shifted(exchange, Follow(1.0))


@part("efbv", "memory", example="efbv(topk(density=0.01), lam=1.0, nu=0.9)")
def EFBV(exchange: Exchange, lam: float, nu: float) -> Shifted:
    """EF-BV (Condat, Yi and Richtárik 2022, arXiv:2205.04180): DIANA at (lam, nu) = (alpha, 1), EF21 at (1, 1)."""
    return Shifted(exchange, Follow(lam, nu))


@part("randdiana", "memory", example="randdiana(randk(density=0.1))")
def RandDIANA(exchange: Exchange, p: float | None = None) -> Shifted:
    """Rand-DIANA (Shulgin and Richtárik 2022, arXiv:2206.10452): unbiased operators, shifts restart at random."""
    return Shifted(exchange, Restart(p))


def start_(state: State, shifts: Tensor, mean: Tensor) -> None:
    """Set the shifts of a state in place: h to shifts [..., d], mean_h to their mean over the workers [d].

    Raises:
        ValueError: the state belongs to a method without shifts.
    """
    if "mean_h" in state:
        tensor(state, "h").copy_(shifts)
        tensor(state, "mean_h").copy_(mean)
    elif "inner" in state:
        start_(nest(state, "inner"), shifts, mean)
    else:
        raise ValueError("this method keeps no shifts that could be set")
