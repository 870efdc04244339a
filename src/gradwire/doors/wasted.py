"""A warning for means that no optimizer uses, if the exchange has a memory.

The backward pass of a generator's loss goes through its discriminator, whose gradients are then discarded. The values
that the exchange has not sent stay in its memory, and are sent later with the discriminator's own gradients.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from functools import partial

from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from gradwire.doors.stepping import register_weakly, trains
from gradwire.engine import Engine
from gradwire.engine.shards import shard

log = logging.getLogger("gradwire")


class Wasted:
    """Warns once if a pass begins with an empty gradient although no optimizer has used the means of the last one.

    It watches the smallest parameter. There is no warning before an optimizer has used a pass, because a training loop
    may do without optimizers.

    Args:
        engine: the engine of the exchange.
        params: the model's parameters.
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
                register_weakly(register_optimizer_step_pre_hook, self._before_step),
                register_weakly(register_optimizer_step_post_hook, self._after_step),
            ]

    def detach(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def begins(self, param: Tensor) -> None:
        """A gradient has been computed, but not yet added to the parameter's."""
        if self._used is None or self._stepping or not self._engine.undoable or self._remembered() <= self._used:
            return
        if param.grad is None or not shard(param.grad).any():
            self.detach()
            log.warning(
                "gradwire: no optimizer has used the means of a backward pass, but the values that were not sent stay "
                "in the memory, and are sent with later gradients; if that pass should not count, as when a "
                "generator's loss goes through its discriminator, run it under hook.no_sync(), or call hook.rollback() "
                "after it"
            )

    def _remembered(self) -> int:
        """Return the number of passes that have changed the memory."""
        return self._engine.step - self._engine.skipped

    def _before_step(self, optimizer: Optimizer) -> None:
        """During a step a closure may run several passes, which the step uses."""
        self._stepping = self._stepping or trains(optimizer, self._params)

    def _after_step(self, optimizer: Optimizer) -> None:
        if trains(optimizer, self._params):
            self._used, self._stepping = self._remembered(), False


def _arrives(watch: weakref.ref[Wasted], param: weakref.ref[Tensor], _: Tensor) -> None:
    """Call `begins` behind weak references: the garbage collector does not see those held by a parameter's hooks."""
    found, tensor = watch(), param()
    if found is not None and tensor is not None:
        found.begins(tensor)
