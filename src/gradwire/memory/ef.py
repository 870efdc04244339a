"""Error feedback: keep what was not sent as a residual (`error`), and add it to the next gradient.

EF14 (Seide et al. 2014; Stich et al. 2018, arXiv:1809.07599; Karimireddy et al. 2019, arXiv:1901.09847), with the
learning rate outside the memory: send g + error, then error = g + error - own. Nothing is lost: the sum of the workers'
g + error is n times the mean plus the sum of their new errors.

Four options; `decay` and `beta` both drop a part of the error, and at most one may be set:
  decay         SparseLoCo's (Sarfi et al. 2025, arXiv:2508.15706: 0.95; also DeMo, Peng et al. 2024, arXiv:2411.19870:
                0.999, and MuLoCo, arXiv:2505.23725: 0.9): send a = g + decay error, then
                error = a - own. Below 1, (1 - decay) error is dropped at every step.
  beta          ScaleCom's low-pass memory (Chen et al. 2020): error = (1 - beta) error + beta (error + g - own). Below
                1, (1 - beta) (g - own) is dropped at every step.
  lr_in_memory  DEFT's Algorithm 1 (Yoon and Oh 2023): the error is kept in units of lr * g, so that what was left out
                at a high learning rate is sent in full at a low one: send a = g + error / lr,
                then error = lr (a - own). With a decay, a = g + decay error / lr.
  dtype         "bfloat16" keeps the error in two bytes a value instead of four: send a = SR(g + decay error), then
                error = SR(a - own). SR rounds at random to one of the two neighbouring bfloat16, such that its
                expectation is the value (kernels/half.py). It does not change a bfloat16: where values are sent in
                full, a - own is 0. So nothing is lost in expectation, not even gradients too small to change an error
                under rounding to nearest. At each step, element by element,
                |own + error - (g + decay old error)| <= 2^-7 (1 + 2^-7) (|g + decay old error| + |error|).
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
from gradwire.exchange.change import Change, change_, preserve_mean_
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
from gradwire.vector import Sent, Sparse, Vector, wide


@part("ef", "memory", example="ef(deft(density=0.01))")
@quiet("beta", "lr_in_memory", "decay", "dtype")
@dataclass(frozen=True)
class EF:
    """Error feedback: carry what was not sent into the next step. Takes contractive operators.

    Args:
        exchange: the exchange that averages g + error; its `delta` must not be None.
        beta: in (0, 1], the weight of the newest error in the memory; 1 keeps all that was not sent.
        lr_in_memory: keep the error in units of lr * g. Turns must then have an `lr`.
        decay: in (0, 1], the factor of the old error before x is added; 1 drops nothing.
        dtype: the error's dtype: "float32" (or wider, if the gradients are), or "bfloat16", rounded at random, which
            excludes `beta` and `lr_in_memory`, because they scale the error.
    """

    exchange: Exchange
    beta: float = 1.0
    lr_in_memory: bool = False
    decay: float = 1.0
    dtype: str = "float32"

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
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype must be 'float32' or 'bfloat16', got {self.dtype!r}")
        if self._narrow and (self.beta != 1 or self.lr_in_memory):
            raise ValueError(
                "ef with dtype='bfloat16' takes neither beta below 1 nor lr_in_memory, which would round the whole "
                f"error again at every step, got beta={self.beta!r} and lr_in_memory={self.lr_in_memory!r}"
            )
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
        """Make the error, zeros [*batch_shape, d] (ValueError: the exchange is not contractive in dimension d)."""
        self._check(layout.d)
        error = kernels.zeros((*batch_shape, layout.d), torch.bfloat16 if self._narrow else dtype, device)
        return {"error": error, "inner": self.exchange.init(layout, dtype, device, batch_shape)}

    async def __call__(self, x: Tensor | Accumulated, state: State, turn: Turn) -> Sent:
        """Exchange x + error: one pass to add x to the error, k writes to subtract `own`, no dense temporary.

        An `Accumulated` x contains the error already, which saves the first pass. Each option costs one or two passes.

        Raises:
            ValueError: `lr_in_memory` without a learning rate above 0.
        """
        error, lr = tensor(state, "error"), self._lr(turn)
        if lr != 1.0:
            error.div_(lr)
        if not isinstance(x, Accumulated):
            self._add(error, x, turn)
        reads = wants_largest(self.exchange, turn) or wants_norms(self.exchange, turn)
        # The protocol promises a plain tensor to an exchange that asked for no facts from `accumulate`.
        given = x if isinstance(x, Accumulated) and reads else _wide(error, x)
        sent = await self.exchange(cast(Tensor, given), nest(state, "inner"), turn)
        if self._narrow:
            _subtract(error, sent.own, None if isinstance(given, Accumulated) else given, turn.fork("rest"))
            return sent
        # `error` is e + g now; what follows makes it (1 - beta) e + beta (e + g - own).
        sent.own.add_to_(error, alpha=-self.beta)
        if self.beta != 1.0:
            error.add_(kernels.values(x), alpha=self.beta - 1.0)
        if lr != 1.0:
            error.mul_(lr)
        return sent

    def accumulate(self, pieces: Sequence[Tensor], state: State, turn: Turn) -> Accumulated | None:
        """Write decay * error + pieces to a second buffer, which becomes the error; the first keeps the old error.

        Returns None with beta or lr_in_memory, which scale the old error or need x by itself, and for float64 pieces
        with an error in bfloat16, whose sum would be exchanged as float32.
        """
        double = self._narrow and any(piece.dtype == torch.float64 for piece in pieces)
        if self.beta != 1.0 or self.lr_in_memory or double:
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
        key = _key(turn.fork("sum")) if self._narrow else 0
        made = kernels.accumulate(tensor(before, "error"), error, pieces, largest, self.decay, layers, key)
        state["error"], before["error"] = made.values, error
        return made

    def rollback(self, state: State) -> None:
        """Swap the two buffers back, and copy the inner exchange's old state back."""
        before = nest(state, BEFORE)
        state["error"], before["error"] = before["error"], state["error"]
        copy_(nest(state, "inner"), nest(before, "inner"))

    @property
    def _narrow(self) -> bool:
        return self.dtype == "bfloat16"

    def _add(self, error: Tensor, x: Tensor, turn: Turn) -> None:
        """error = decay * error + x, in place; bfloat16 is rounded as in `accumulate`."""
        total = _wide(error, x)
        (total if self.decay == 1.0 else total.mul_(self.decay)).add_(x)
        if self._narrow:
            kernels.round_(error, total, _key(turn.fork("sum")))

    async def change(self, state: State, change: Change) -> None:
        """Preserve the workers' mean error (`preserve_mean_`)."""
        preserve_mean_(tensor(state, "error"), change)
        await change_(self.exchange, nest(state, "inner"), change)

    def _lr(self, turn: Turn) -> float:
        """Return the factor of g in the memory: the learning rate, or 1 without lr_in_memory."""
        if not self.lr_in_memory:
            return 1.0
        if turn.lr is None or not 0 < turn.lr < math.inf:
            raise ValueError(f"ef with lr_in_memory needs the step's learning rate, lr=..., above 0, got {turn.lr}")
        return turn.lr

    def omega(self, d: int) -> float | None:
        """Return 0 if nothing is lost, else None: every single step is biased."""
        return 0.0 if self.exchange.omega(d) == 0.0 and not self._narrow else None

    def delta(self, d: int) -> float | None:
        """Return None: because of the memory, what is sent may be larger than x."""
        return None


def _wide(error: Tensor, x: Tensor | Accumulated) -> Tensor:
    """Return the error itself, or, if it is bfloat16, a copy in x's dtype, at least float32."""
    if error.dtype != torch.bfloat16:
        return error
    return error.to(wide(kernels.values(x).dtype))


def _subtract(error: Tensor, own: Vector, copy: Tensor | None, turn: Turn) -> None:
    """error bf16[..., d] -= own, in place, rounded at random; `copy`, if given, is the wide error, to be overwritten.

    If own holds the error's values in full, as after a selection, the result there is exactly 0.
    """
    if isinstance(own, Sparse) and _distinct(own.indices):
        held = error.index_select(0, own.indices) if error.ndim == 1 else error.gather(-1, own.indices)
        rest = held.to(own.values.dtype).sub_(own.values)
        left = kernels.round_(torch.empty_like(rest, dtype=error.dtype), rest, _key(turn))
        # As int16, because torch 2.13 scatters bfloat16 fifty times more slowly on the CPU.
        error.view(torch.int16).scatter_(-1, own.indices, left.view(torch.int16))
        return
    left = error.float() if copy is None else copy
    own.add_to_(left, alpha=-1.0)
    kernels.round_(error, left, _key(turn))


def _distinct(indices: Tensor) -> bool:
    """Whether no index of int64[..., k] is repeated; a selection's indices increase, which is tested first."""
    if bool((indices.diff() > 0).all()):
        return True
    return bool(indices.sort(-1).values.diff().ne(0).all())


def _key(turn: Turn) -> int:
    return turn.key(shared=False)
