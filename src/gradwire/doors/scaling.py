"""Refuse, at the first step, a GradScaler that was not passed to `attach`.

The memory would then hold residuals or shifts of a scaled loss, and these would have the wrong scale from the first
change of scale on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from gradwire.doors.stepping import register_weakly, trains
from gradwire.engine import Engine

_STEP = GradScaler.step.__code__


class Scaling:
    """Watch for a scaler that was not given to an engine with a memory.

    Args:
        engine: the engine; one that has a scaler or no memory is not watched.
        params: the model's parameters.
    """

    def __init__(self, engine: Engine, params: Iterable[Tensor]) -> None:
        self._params = frozenset(map(id, params))
        watches = engine.scaler is None and engine.remembers
        self._handles = [register_weakly(register_optimizer_step_pre_hook, self._before_step)] if watches else []

    def detach(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _before_step(self, optimizer: Optimizer) -> None:
        """Raise RuntimeError before the step, so that the parameters do not change."""
        if trains(optimizer, self._params) and _in_a_scalers_step():
            raise RuntimeError(
                "a GradScaler steps this optimizer, and gradwire was not given it, so its memory would be in units of "
                "a scale that changes: attach(..., scaler=scaler)"
            )


def _in_a_scalers_step() -> bool:
    """Whether `step` of an enabled GradScaler is among the callers; no public attribute shows that."""
    frame = sys._getframe()  # pyright: ignore[reportPrivateUsage] - as warnings and logging do
    while frame is not None:
        if frame.f_code is _STEP:
            return bool(frame.f_locals["self"].is_enabled())
        frame = frame.f_back
    return False
