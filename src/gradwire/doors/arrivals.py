"""Arrivals: gradients are handed over one by one, and the end of their pass is detected.

Autograd does not signal the last gradient, so a pass ends in one of two places:

- A callback at the end of backward ends it if every parameter has its gradient by then. Clipping and unscaling then
  see means.
- Otherwise a hook just before the optimizer's step ends it: some parameters were unused, or what ended was the backward
  pass of a reentrant checkpoint, nested in the real one.

With `find_unused_parameters` the callback always ends the pass.
"""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import lru_cache, partial

import torch
from torch import Tensor
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from gradwire.doors.frozen import unfrozen
from gradwire.doors.gradient import is_nonzero, local_gradient
from gradwire.doors.stepping import register_weakly, trains
from gradwire.engine import Engine
from gradwire.engine.shards import shard

log = logging.getLogger("gradwire")


class Arrivals:
    """Hands every parameter's gradient to the engine, and finds the end of each backward pass.

    Args:
        engine: averages the gradients.
        named: the engine's parameters by name.
        find_unused: end the pass with backward, even if some parameters have no gradient by then.
        frozen: the model's frozen parameters by name; the engine does not have them.
    """

    def __init__(
        self,
        engine: Engine,
        named: Sequence[tuple[str, Tensor]],
        find_unused: bool,
        frozen: Sequence[tuple[str, Tensor]] = (),
    ) -> None:
        self.engine, self.find_unused, self.frozen = engine, find_unused, frozen
        self.params = [param for _, param in named]
        self.names = {id(param): name for name, param in named}
        self._contributed: dict[int, Tensor | None] = {}
        self._versions: dict[int, int] = {}
        self._means: list[Future[None]] = []
        self._accumulating = self._warned = False
        self._task = self._finished = -1
        arrive = partial(_uncompiled_hand_over(), weakref.ref(self))
        self._handles: list[RemovableHandle] = [
            *(param.register_post_accumulate_grad_hook(arrive) for param in self.params),
            register_weakly(register_optimizer_step_pre_hook, self._before_step),
            register_weakly(register_optimizer_step_post_hook, self._after_step),
        ]

    @contextmanager
    def no_sync(self) -> Generator[None]:
        """Accumulate gradients locally in this context; the next pass outside of it exchanges their sums."""
        before, self._accumulating = self._accumulating, True
        try:
            yield
        finally:
            self._accumulating = before

    def detach(self) -> None:
        """Remove all hooks from parameters and optimizers."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @property
    def attached(self) -> bool:
        """Whether the hooks are still on the model."""
        return bool(self._handles)

    def arrive(self, param: Tensor) -> None:
        """Hand over a parameter's gradient; autograd calls this once the gradient is accumulated."""
        if self._accumulating:
            return
        if _in_compiled_autograd():
            raise RuntimeError(
                "compiled autograd has no end of backward at which gradwire could wait for means: leave "
                "torch._dynamo.config.compiled_autograd off, and compile the forward pass only"
            )
        task = _backward_pass()
        if task <= self._finished:
            raise RuntimeError(
                f"the gradient of {self.names[id(param)]!r} came after the others were exchanged: with "
                "find_unused_parameters=True use checkpoints with use_reentrant=False"
            )
        if id(param) in self._contributed:
            self._check_new_pass(param)
        self._contribute(param)
        if task != self._task:
            self._task = task
            _queue_after_backward(lambda: self._end_of_backward(task))

    def _check_new_pass(self, param: Tensor) -> None:
        """Begin another pass at a parameter's second gradient, if its first was discarded; else raise RuntimeError."""
        if param.grad is self._contributed[id(param)]:
            raise RuntimeError(
                f"{self.names[id(param)]!r} got a second gradient before the optimizer's step: accumulate under "
                "hook.no_sync(), use no parameter in two checkpoints with use_reentrant=True, and call no module of "
                "its own FSDP2 group twice"
            )
        self.forget()

    def _contribute(self, param: Tensor) -> None:
        """Hand this rank's part of a gradient to the engine, in its parameter's memory layout."""
        flat = local_gradient(param, self.names[id(param)])
        future: Future[None] = Future()
        first, self._contributed[id(param)] = not self._contributed, param.grad
        if param.grad is not None and not param.grad.requires_grad:
            # `data` has its own version counter, so that the engine's writes do not count as the caller's.
            flat, self._versions[id(param)] = flat.data, param.grad._version
        self._means.append(future)
        self.engine.contribute([(id(param), flat)], lambda failure: _settle(future, failure), first=first)

    def _end_of_backward(self, task: int) -> None:
        """Finish the pass if it is complete, at the end of a backward pass that may be nested in another one."""
        if self._contributed and (self.find_unused or len(self._contributed) == len(self.params)):
            self._finish()
            self._finished = task

    def _before_step(self, optimizer: Optimizer) -> None:
        """Before the step of an optimizer with parameters of this model: finish an open pass, and commit it."""
        if not trains(optimizer, self.names):
            return
        self._check_frozen()
        if self._contributed:
            if self.engine.scaler is not None and len(self._contributed) < len(self.params):
                raise RuntimeError(
                    f"backward has ended without a gradient of {self._unused()}, and with a scaler the unused "
                    "parameters must be known by then; pass find_unused_parameters=True to attach"
                )
            self._finish()
        self.engine.commit()

    def _after_step(self, optimizer: Optimizer) -> None:
        """After the step of such an optimizer: refuse gradients that its closure has produced, but not averaged."""
        if not trains(optimizer, self.names):
            return
        if self._contributed:
            raise RuntimeError(
                "the optimizer has stepped on gradients that are not averaged: its closure has run backward without a "
                f"gradient of {self._unused()}; pass find_unused_parameters=True to attach"
            )
        if self.engine.step == 0 and not self._warned:
            self._warn_no_gradients()

    def _unused(self) -> str:
        """Return the names of parameters without a gradient in this pass."""
        return ", ".join(sorted(name for param, name in self.names.items() if param not in self._contributed))

    def _check_frozen(self) -> None:
        """Raise RuntimeError if a parameter has been unfrozen: its gradients are not averaged."""
        if (name := unfrozen(self.frozen)) is not None:
            raise RuntimeError(
                f"parameter {name!r} was frozen when gradwire was attached, and is trainable now: close the hook and "
                "attach again"
            )

    def _check_unchanged(self) -> None:
        """Raise RuntimeError if a gradient was written during its exchange: the ranks would get different ones."""
        for param in self.params:
            version, grad = self._versions.get(id(param)), self._contributed.get(id(param))
            if version is None or grad is None or param.grad is not grad or grad._version == version:
                continue
            if len(self._contributed) < len(self.params):
                raise RuntimeError(
                    f"the gradient of {self.names[id(param)]!r} was changed, for example by clipping, before it was "
                    f"averaged, because {self._unused()} got no gradient; pass find_unused_parameters=True to attach"
                )
            raise RuntimeError(
                f"the gradient of {self.names[id(param)]!r} was changed while gradwire averaged it, as "
                "DistributedDataParallel does if it wraps a module after attach: wrap the module first"
            )

    def _warn_no_gradients(self) -> None:
        """Warn once that an optimizer steps although no gradient has arrived.

        A step on gradients that are all zero gives no warning: it only initialises the optimizer's state.
        """
        grads = [param.grad for param in self.params if param.grad is not None]
        if not grads or any(bool(shard(grad).any()) for grad in grads):
            log.warning("gradwire: the optimizer steps, but gradwire has received no gradient: nothing is exchanged")
            self._warned = True

    def _finish(self) -> None:
        """Contribute zeros for unused parameters and wait for all means.

        An unused parameter whose mean is zero gets back `grad = None`.
        """
        self._check_unchanged()
        unused: list[Tensor] = []
        for param in self.params:
            if id(param) in self._contributed:
                continue
            if param.grad is None:
                param.grad = torch.zeros_like(param.detach())
                unused.append(param)
            self._contribute(param)
        means = self._means
        self.forget()
        for mean in means:
            mean.result()
        self.engine.wait_stream()
        for param in unused:
            if param.grad is not None and not is_nonzero(param.grad):
                param.grad = None  # with zeros an optimizer would let its momentum decay

    def forget(self) -> None:
        """Forget the current pass; the next gradient begins another one."""
        self._contributed, self._versions, self._means = {}, {}, []


def _hand_over(reference: weakref.ref[Arrivals], param: Tensor) -> None:
    """Hand a gradient to the door behind a weak reference.

    The garbage collector does not see references held by a parameter's hooks, so a strong one would never be freed.
    """
    if (door := reference()) is None:
        raise RuntimeError(
            "gradwire was attached to a module that is gone, as its hook is, and its parameters are still trained: "
            "keep the module, or the hook"
        )
    door.arrive(param)


@lru_cache(maxsize=1)
def _uncompiled_hand_over() -> Callable[[weakref.ref[Arrivals], Tensor], None]:
    """Return `_hand_over`, excluded from torch.compile."""
    return torch.compiler.disable(_hand_over)  # pyright: ignore[reportReturnType]


def _backward_pass() -> int:
    """Return the running backward pass's number; a nested pass has a larger one than the pass around it."""
    return torch._C._current_graph_task_id()  # pyright: ignore[reportPrivateUsage] - as torch's checkpoints do


def _in_compiled_autograd() -> bool:
    """Whether the running backward pass is one of compiled autograd."""
    known = sys.modules.get("torch._dynamo.compiled_autograd")
    return known is not None and bool(known.in_compiled_autograd_region)


def _queue_after_backward(call: Callable[[], None]) -> None:
    """Queue a call for the end of the running backward pass, before `backward` returns.

    It is queued from a callback, so it runs after FSDP2's callbacks, in which the last groups' gradients may arrive.
    """
    engine = torch.autograd.Variable._execution_engine  # pyright: ignore[reportPrivateUsage] - as DDP does
    engine.queue_callback(lambda: engine.queue_callback(call))


def _settle(future: Future[None], failure: Exception | None) -> None:
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(RuntimeError(f"gradwire's exchange failed: {failure}"))
