"""A GradScaler that steps the optimizer though the door was not given it: refused at the first step.

The gradients that reach a memory are then those of a scaled loss, and from the first change of scale on what it
remembers counts too much or too little.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from gradwire.doors.stepping import trains, weakly
from gradwire.engine import Engine

_STEP = GradScaler.step.__code__


class Scaling:
    """Watch for a scaler that an engine with a memory does not know.

    Args:
        engine: whose memory it is.
        params: those of the model.
    """

    def __init__(self, engine: Engine, params: Iterable[Tensor]) -> None:
        self._params = frozenset(map(id, params))
        watches = engine.scaler is None and engine.remembers
        self._handles = [weakly(register_optimizer_step_pre_hook, self._before_step)] if watches else []

    def detach(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _before_step(self, optimizer: Optimizer) -> None:
        """Before the step, so that the parameters are not touched."""
        if trains(optimizer, self._params) and _in_a_scalers_step():
            raise RuntimeError(
                "a GradScaler steps this optimizer, and gradwire was not given it, so its memory would be in units of "
                "a scale that changes: attach(..., scaler=scaler)"
            )


def _in_a_scalers_step() -> bool:
    """Whether an enabled GradScaler is among the callers: it leaves no other sign that is public."""
    frame = sys._getframe()  # pyright: ignore[reportPrivateUsage] - as warnings and logging do
    while frame is not None:
        if frame.f_code is _STEP:
            return bool(frame.f_locals["self"].is_enabled())
        frame = frame.f_back
    return False
