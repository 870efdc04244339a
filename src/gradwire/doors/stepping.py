"""Hooks on the steps of all optimizers, which do not keep alive what they call."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Container
from typing import Any

from torch.optim.optimizer import Optimizer
from torch.utils.hooks import RemovableHandle


def weakly(register: Callable[[Any], RemovableHandle], method: Callable[[Optimizer], None]) -> RemovableHandle:
    """Register a bound method as torch's hook on every optimizer's step. torch keeps such hooks for ever."""
    reference = weakref.WeakMethod(method)

    def on_step(optimizer: Optimizer, *_: Any) -> None:
        if (call := reference()) is not None:
            call(optimizer)

    return register(on_step)


def trains(optimizer: Optimizer, params: Container[int]) -> bool:
    """Whether an optimizer has one of these parameters, which are given by id."""
    return any(id(param) in params for group in optimizer.param_groups for param in group["params"])
