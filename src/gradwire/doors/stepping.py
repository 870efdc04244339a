"""Hooks on the steps of all optimizers that do not keep their owners alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Container
from typing import Any

from torch.optim.optimizer import Optimizer
from torch.utils.hooks import RemovableHandle


def register_weakly(register: Callable[[Any], RemovableHandle], method: Callable[[Optimizer], None]) -> RemovableHandle:
    """Register a bound method as a hook on every optimizer's step, through a weak reference.

    torch keeps such hooks for ever, and would keep the method's object alive.
    """
    reference = weakref.WeakMethod(method)

    def on_step(optimizer: Optimizer, *_: Any) -> None:
        if (call := reference()) is not None:
            call(optimizer)

    return register(on_step)


def trains(optimizer: Optimizer, params: Container[int]) -> bool:
    """Whether an optimizer has a parameter whose `id` is in `params`."""
    return any(id(param) in params for group in optimizer.param_groups for param in group["params"])
