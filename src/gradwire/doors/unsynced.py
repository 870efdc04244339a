"""Gradients that DDP has not exchanged, and that an optimizer has used: noticed, and said once.

DDP exchanges one backward pass a forward pass. After two forward passes, the second of two backward passes is added to
`param.grad` on each rank by itself; so is that of a graph that is used twice (`retain_graph=True`). DDP says nothing,
compressed or not, and the ranks' parameters part for good.
"""

from __future__ import annotations

import logging
import weakref
from functools import partial

from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from gradwire.doors.stepping import trains, weakly

log = logging.getLogger("gradwire")


class Unsynced:
    """Watch one parameter: has it had a gradient since DDP's last exchange when an optimizer has stepped?

    Args:
        param: a parameter that DDP reduces.
    """

    def __init__(self, param: Tensor) -> None:
        self.param, self.behind, self.warned = param, False, False
        self._handles: list[RemovableHandle] = [
            param.register_post_accumulate_grad_hook(partial(_accumulated, weakref.ref(self))),
            weakly(register_optimizer_step_post_hook, self._after_step),
        ]

    def exchanged(self) -> None:
        """DDP has handed over the last bucket of a pass, which it does when all gradients are there."""
        self.behind = False

    def detach(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _after_step(self, optimizer: Optimizer) -> None:
        """After the step, for a closure given to it runs backward inside of it."""
        if self.warned or not self.behind or self.param.grad is None:
            return
        if trains(optimizer, {id(self.param)}):
            self.warned = True
            log.warning(
                "gradwire: the optimizer steps on gradients of a backward pass that DDP has not exchanged, so the "
                "ranks' models part; call backward once after each forward pass, or hand DDP one joint loss"
            )


def _accumulated(reference: weakref.ref[Unsynced], _: Tensor) -> None:
    """The garbage collector does not see what a parameter's hooks refer to."""
    if (watch := reference()) is not None:
        watch.behind = True
