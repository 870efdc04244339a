"""Means that no optimizer has used, of an exchange with a memory: noticed, and said once.

A generator's loss is led back through its discriminator, whose gradients are then thrown away. What an exchange has not
sent of them stays in its memory all the same, and goes to the discriminator with its own gradients.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from functools import partial

from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from gradwire.doors.stepping import trains, weakly
from gradwire.engine import Engine

log = logging.getLogger("gradwire")


class Wasted:
    """Watch the smallest parameter: does a pass begin on an empty gradient, though no optimizer has used the last one?

    Nothing is said before an optimizer has used a pass, for loops may do without one.

    Args:
        engine: whose memory it is.
        params: those of the model.
    """

    def __init__(self, engine: Engine, params: Sequence[Tensor]) -> None:
        self._engine, self._params = engine, frozenset(map(id, params))
        self._used: int | None = None
        self._stepping = False
        self._handles: list[RemovableHandle] = []
        if engine.remembers:
            watched = min(params, key=Tensor.numel)
            self._handles = [
                watched.register_hook(partial(_arrives, weakref.ref(self), weakref.ref(watched))),
                weakly(register_optimizer_step_pre_hook, self._before_step),
                weakly(register_optimizer_step_post_hook, self._after_step),
            ]

    def detach(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def begins(self, param: Tensor) -> None:
        """A gradient comes, and has not been added to the parameter's yet."""
        if self._used is None or self._stepping or not self._engine.undoable or self._remembered() <= self._used:
            return
        if param.grad is None or not param.grad.any():
            self.detach()
            log.warning(
                "gradwire: no optimizer has used the means of a backward pass, and what was not sent of them stays in "
                "the memory, to be sent with later gradients; if they are not to count, as where a generator's loss is "
                "led through its discriminator, run that pass under hook.no_sync(), or call hook.rollback() after it"
            )

    def _remembered(self) -> int:
        """Passes that have changed the memory."""
        return self._engine.step - self._engine.skipped

    def _before_step(self, optimizer: Optimizer) -> None:
        """A closure may run any number of passes in a step, which uses them all."""
        self._stepping = self._stepping or trains(optimizer, self._params)

    def _after_step(self, optimizer: Optimizer) -> None:
        if trains(optimizer, self._params):
            self._used, self._stepping = self._remembered(), False


def _arrives(watch: weakref.ref[Wasted], param: weakref.ref[Tensor], _: Tensor) -> None:
    """The garbage collector does not see what a parameter's hooks refer to."""
    found, tensor = watch(), param()
    if found is not None and tensor is not None:
        found.begins(tensor)
