"""Warn once if an optimizer uses gradients that DDP has not exchanged.

DDP exchanges one backward pass per forward pass. After two forward passes, the second of two backward passes is added
to `param.grad` on each rank without an exchange; so is a second backward pass of one graph (`retain_graph=True`). DDP
does not warn, compressed or not, and the ranks' parameters diverge for good.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from functools import partial

from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from gradwire.doors.frozen import unfrozen
from gradwire.doors.stepping import register_weakly, trains

log = logging.getLogger("gradwire")


class Unsynced:
    """Watch one parameter: did it get a gradient between DDP's last exchange and an optimizer's step?

    It also notices a parameter that was frozen at first: DDP does not reduce it once it is unfrozen.

    Args:
        param: a parameter that DDP reduces.
        frozen: the model's frozen parameters by name.
    """

    def __init__(self, param: Tensor, frozen: Sequence[tuple[str, Tensor]] = ()) -> None:
        self.param, self.frozen, self.behind, self.warned = param, frozen, False, False
        self._handles: list[RemovableHandle] = [
            param.register_post_accumulate_grad_hook(partial(_accumulated, weakref.ref(self))),
            register_weakly(register_optimizer_step_post_hook, self._after_step),
        ]

    def exchanged(self) -> None:
        """Note that DDP has handed over the last bucket of a pass, which it does when all gradients are there."""
        self.behind = False

    def detach(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _after_step(self, optimizer: Optimizer) -> None:
        """Warn after the step, not before it: a closure that is passed to `step` runs backward inside of it."""
        if self.warned:
            return
        if (name := unfrozen(self.frozen)) is not None:
            self.warned = True
            log.warning(
                "gradwire: parameter %r was frozen when DDP wrapped the model, and is trainable now: DDP does not "
                "average its gradients, so the ranks' models diverge; wrap the model again, and attach",
                name,
            )
        elif self.behind and self.param.grad is not None and trains(optimizer, {id(self.param)}):
            self.warned = True
            log.warning(
                "gradwire: the optimizer steps on gradients of a backward pass that DDP has not exchanged, so the "
                "ranks' models diverge; call backward once after each forward pass, or give DDP one joint loss"
            )


def _accumulated(reference: weakref.ref[Unsynced], _: Tensor) -> None:
    """Note a gradient, through a weak reference: the garbage collector does not see a hook's references."""
    if (watch := reference()) is not None:
        watch.behind = True
