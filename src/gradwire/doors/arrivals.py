"""Arrivals: gradients that come one by one, and the end of the pass that brings them.

Autograd has no word for "this was the last gradient", so the end of a pass is found in one of two places. A callback at
the end of backward, if by then every parameter has its gradient: clipping and unscaling then see means. Else the
optimizer's step, just before it: some parameters were unused, or a reentrant checkpoint's backward pass, nested in the
real one, has ended. With `find_unused_parameters` the callback always ends the pass.
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

from gradwire.doors.gradient import holds_anything, laid
from gradwire.doors.stepping import trains, weakly
from gradwire.engine import Engine
from gradwire.engine.shards import shard

log = logging.getLogger("gradwire")


class Arrivals:
    """The state of one pass: which gradients were handed over, and which are means already.

    Args:
        engine: takes the gradients.
        named: the parameters by name, as the engine has them.
        find_unused: end the pass with backward, whatever has no gradient by then.
        frozen: parameters of the model that the engine does not have, by name.
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
        self._given: dict[int, Tensor | None] = {}
        self._versions: dict[int, int] = {}
        self._means: list[Future[None]] = []
        self._accumulating = self._warned = False
        self._task = self._finished = -1
        arrive = partial(_outside_graphs(), weakref.ref(self))
        self._handles: list[RemovableHandle] = [
            *(param.register_post_accumulate_grad_hook(arrive) for param in self.params),
            weakly(register_optimizer_step_pre_hook, self._before_step),
            weakly(register_optimizer_step_post_hook, self._after_step),
        ]

    @contextmanager
    def no_sync(self) -> Generator[None]:
        """Leave gradients where they are; the first pass outside hands over their sums."""
        before, self._accumulating = self._accumulating, True
        try:
            yield
        finally:
            self._accumulating = before

    def detach(self) -> None:
        """Leave the model alone from now on."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @property
    def attached(self) -> bool:
        """Whether gradients still come here."""
        return bool(self._handles)

    def arrive(self, param: Tensor) -> None:
        """A gradient is there: hand it over."""
        if self._accumulating:
            return
        if _compiled():
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
        if id(param) in self._given:
            self._check_new_pass(param)
        self._contribute(param)
        if task != self._task:
            self._task = task
            _at_its_end(lambda: self._end_of_backward(task))

    def _check_new_pass(self, param: Tensor) -> None:
        """A second gradient of a parameter begins another pass, if the first one's was thrown away."""
        if param.grad is self._given[id(param)]:
            raise RuntimeError(
                f"{self.names[id(param)]!r} got a second gradient before the optimizer's step: accumulate under "
                "hook.no_sync(), use no parameter in two checkpoints with use_reentrant=True, and call no module of "
                "its own FSDP2 group twice"
            )
        self.forget()

    def _contribute(self, param: Tensor) -> None:
        """Hand over this rank's part of a gradient, laid as its parameter is."""
        flat = laid(param, self.names[id(param)])
        future: Future[None] = Future()
        first, self._given[id(param)] = not self._given, param.grad
        if param.grad is not None and not param.grad.requires_grad:
            # `data` has a version counter of its own, so what the engine writes does not count as the caller's.
            flat, self._versions[id(param)] = flat.data, param.grad._version
        self._means.append(future)
        self.engine.contribute([(id(param), flat)], lambda failure: _settle(future, failure), first=first)

    def _end_of_backward(self, task: int) -> None:
        """At the end of a backward pass, which may be nested in another one."""
        if self._given and (self.find_unused or len(self._given) == len(self.params)):
            self._finish()
            self._finished = task

    def _before_step(self, optimizer: Optimizer) -> None:
        """Before any optimizer's step: if it has parameters of ours, finish a pass that is not, and commit it."""
        if not trains(optimizer, self.names):
            return
        self._check_frozen()
        if self._given:
            if self.engine.scaler is not None and len(self._given) < len(self.params):
                raise RuntimeError(
                    f"no gradient has come of {self._unused()}, and under a scaler that must be known when backward "
                    "ends; pass find_unused_parameters=True to attach"
                )
            self._finish()
        self.engine.commit()

    def _after_step(self, optimizer: Optimizer) -> None:
        """After the step, for a closure given to it runs backward inside of it."""
        if not trains(optimizer, self.names):
            return
        if self._given:
            raise RuntimeError(
                "the optimizer has stepped on gradients that are not averaged: its closure has run backward, and no "
                f"gradient has come of {self._unused()}; pass find_unused_parameters=True to attach"
            )
        if self.engine.step == 0 and not self._warned:
            self._warn_of_silence()

    def _unused(self) -> str:
        """The names of parameters without a gradient in this pass."""
        return ", ".join(sorted(name for param, name in self.names.items() if param not in self._given))

    def _check_frozen(self) -> None:
        for name, param in self.frozen:
            if param.requires_grad and param.grad is not None:
                raise RuntimeError(
                    f"parameter {name!r} was frozen when gradwire was attached, and is trainable now: close the hook "
                    "and attach again"
                )

    def _check_unchanged(self) -> None:
        """Refuse gradients that were written while they were exchanged: ranks would get different ones."""
        for param in self.params:
            version, grad = self._versions.get(id(param)), self._given.get(id(param))
            if version is None or grad is None or param.grad is not grad or grad._version == version:
                continue
            if len(self._given) < len(self.params):
                raise RuntimeError(
                    f"the gradient of {self.names[id(param)]!r} was changed, by clipping for one, before it was "
                    f"averaged: no gradient has come of {self._unused()}; pass find_unused_parameters=True to attach"
                )
            raise RuntimeError(
                f"the gradient of {self.names[id(param)]!r} was changed while gradwire averaged it, as "
                "DistributedDataParallel does if it wraps a module after attach: wrap the module first"
            )

    def _warn_of_silence(self) -> None:
        """Tell, once, that an optimizer steps though no gradient has come. With zeros it only makes its state."""
        grads = [param.grad for param in self.params if param.grad is not None]
        if not grads or any(bool(shard(grad).any()) for grad in grads):
            log.warning("gradwire: the optimizer steps, and no gradient has come to gradwire: nothing is exchanged")
            self._warned = True

    def _finish(self) -> None:
        """Hand over zeros for what was unused, wait for all means, and leave no gradient where nothing came of it."""
        self._check_unchanged()
        unused: list[Tensor] = []
        for param in self.params:
            if id(param) in self._given:
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
            if param.grad is not None and not holds_anything(param.grad):
                param.grad = None  # an optimizer would let its momentum decay

    def forget(self) -> None:
        """The next gradient begins a pass."""
        self._given, self._versions, self._means = {}, {}, []


def _hand_over(reference: weakref.ref[Arrivals], param: Tensor) -> None:
    """Call the door, weakly: the garbage collector does not see what a parameter's hooks refer to."""
    if (door := reference()) is None:
        raise RuntimeError(
            "gradwire was attached to a module that is gone, as its hook is, and its parameters are still trained: "
            "keep the module, or the hook"
        )
    door.arrive(param)


@lru_cache(maxsize=1)
def _outside_graphs() -> Callable[[weakref.ref[Arrivals], Tensor], None]:
    """The same, left alone by torch.compile."""
    return torch.compiler.disable(_hand_over)  # pyright: ignore[reportReturnType]


def _backward_pass() -> int:
    """The number of the backward pass that is running: a nested one has a larger number than the one around it."""
    return torch._C._current_graph_task_id()  # pyright: ignore[reportPrivateUsage] - as torch's checkpoints do


def _compiled() -> bool:
    """Whether the backward pass that is running has been compiled as a whole."""
    known = sys.modules.get("torch._dynamo.compiled_autograd")
    return known is not None and bool(known.in_compiled_autograd_region)


def _at_its_end(call: Callable[[], None]) -> None:
    """Call at the end of the backward pass that is running, before `backward` returns.

    And behind the callbacks of FSDP2, in which gradients of its last groups may still arrive.
    """
    engine = torch.autograd.Variable._execution_engine  # pyright: ignore[reportPrivateUsage] - as DDP does
    engine.queue_callback(lambda: engine.queue_callback(call))


def _settle(future: Future[None], failure: Exception | None) -> None:
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(RuntimeError(f"gradwire's exchange failed: {failure}"))
