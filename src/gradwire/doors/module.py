"""The bare door: gradients of any module, without a wrapper.

    a gradient is accumulated -> the parameter's hook hands it to the engine, while backward goes on -> the end of
    backward waits until `param.grad` holds means

Autograd has no word for "this was the last gradient", so the end of a pass is found in one of two places. A callback at
the end of backward, if by then every parameter has its gradient: clipping and unscaling then see means. Else the
optimizer's step, just before it: some parameters were unused, or a reentrant checkpoint's backward pass, nested in the
real one, has ended. With `find_unused_parameters` the callback always ends the pass.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from gradwire.doors.alike import start_alike
from gradwire.doors.hook import Hook
from gradwire.engine import Engine, Scaler
from gradwire.exchange import Exchange
from gradwire.transport.members import Group

UNIT_BYTES = 25 * 2**20
"""Bytes that are exchanged together where nobody says: DDP's default."""


def attach_module(
    model: nn.Module,
    exchange: Exchange,
    seed: int,
    unit_bytes: float | None,
    scaler: Scaler | None,
    lr: Callable[[], float] | None,
    group: Group,
    *,
    find_unused: bool,
) -> Hook:
    """Average `param.grad` of a bare module before the optimizer's step; see `gradwire.attach`."""
    named = [(name, param) for name, param in model.named_parameters() if param.requires_grad][::-1]
    engine = Engine(
        named,
        exchange,
        group,
        seed=seed,
        unit_bytes=UNIT_BYTES if unit_bytes is None else unit_bytes,
        scaler=scaler,
        lr=lr,
    )
    start_alike(model, engine.process)
    door = _ModuleDoor(engine, [param for _, param in named], {id(param): name for name, param in named}, find_unused)
    return Hook(engine, door.no_sync, door.detach, door.forget)


class _ModuleDoor:
    """The state of one pass: which gradients were handed over, and which are means already."""

    def __init__(self, engine: Engine, params: list[Tensor], names: dict[int, str], find_unused: bool) -> None:
        self.engine, self.params, self.names, self.find_unused = engine, params, names, find_unused
        self._given: dict[int, Tensor] = {}
        self._means: list[Future[None]] = []
        self._accumulating = False
        self._task = self._finished = -1
        before_step = weakref.WeakMethod(self._before_step)  # torch keeps its hooks for ever

        def on_step(optimizer: Optimizer, *_: Any) -> None:
            if (call := before_step()) is not None:
                call(optimizer)

        self._handles: list[RemovableHandle] = [
            *(param.register_post_accumulate_grad_hook(self._arrive) for param in params),
            register_optimizer_step_pre_hook(on_step),
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

    def _arrive(self, param: Tensor) -> None:
        """A gradient is there: hand it over."""
        if self._accumulating:
            return
        task = _backward_pass()
        if task < self._finished:
            raise RuntimeError(
                f"the gradient of {self.names[id(param)]!r} came after the others were exchanged: with "
                "find_unused_parameters=True use checkpoints with use_reentrant=False"
            )
        if id(param) in self._given:
            self._check_new_pass(param)
        self._contribute(param, _laid(param))
        if task != self._task:
            self._task = task
            _at_its_end(lambda: self._end_of_backward(task))

    def _check_new_pass(self, param: Tensor) -> None:
        """A second gradient of a parameter begins another pass, if the first one's was thrown away."""
        if param.grad is self._given[id(param)]:
            raise RuntimeError(
                f"{self.names[id(param)]!r} got a second gradient before the optimizer's step: accumulate under "
                "hook.no_sync(), and use no parameter in two checkpoints with use_reentrant=True"
            )
        self.forget()

    def _contribute(self, param: Tensor, flat: Tensor) -> None:
        """Hand over a gradient that lies as its parameter does."""
        future: Future[None] = Future()
        first, self._given[id(param)] = not self._given, param.grad if param.grad is not None else flat
        self._means.append(future)
        self.engine.contribute([(id(param), flat)], lambda failure: _settle(future, failure), first=first)

    def _end_of_backward(self, task: int) -> None:
        """At the end of a backward pass, which may be nested in another one."""
        if self._given and (self.find_unused or len(self._given) == len(self.params)):
            self._finish()
            self._finished = task

    def _before_step(self, optimizer: Optimizer) -> None:
        """Before any optimizer's step: if it has parameters of ours, finish a pass that is not, and commit it."""
        if not any(id(param) in self.names for group in optimizer.param_groups for param in group["params"]):
            return
        if self._given:
            if self.engine.scaler is not None and len(self._given) < len(self.params):
                unused = sorted(name for param, name in self.names.items() if param not in self._given)
                raise RuntimeError(
                    f"no gradient has come of {', '.join(unused)}, and under a scaler that must be known when backward "
                    "ends; pass find_unused_parameters=True to attach"
                )
            self._finish()
        self.engine.commit()

    def _finish(self) -> None:
        """Hand over zeros for what was unused, wait for all means, and leave no gradient where nothing came of it."""
        unused: list[tuple[Tensor, Tensor]] = []
        for param in self.params:
            if id(param) in self._given:
                continue
            if param.grad is None:
                zeros = torch.zeros(param.shape, dtype=param.dtype, device=param.device)
                unused.append((param, zeros))
                self._contribute(param, zeros)
            else:
                self._contribute(param, _laid(param))
        means = self._means
        self.forget()
        for mean in means:
            mean.result()
        self.engine.wait_stream()
        for param, mean in unused:
            if bool(mean.any()):
                param.grad = mean.as_strided(param.shape, param.stride())

    def forget(self) -> None:
        """The next gradient begins a pass."""
        self._given, self._means = {}, []


def _backward_pass() -> int:
    """The number of the backward pass that is running: a nested one has a larger number than the one around it."""
    return torch._C._current_graph_task_id()  # pyright: ignore[reportPrivateUsage] - as torch's checkpoints do


def _at_its_end(call: Callable[[], None]) -> None:
    """Call at the end of the backward pass that is running, before `backward` returns."""
    torch.autograd.Variable._execution_engine.queue_callback(call)  # pyright: ignore[reportPrivateUsage] - as DDP does


def _laid(param: Tensor) -> Tensor:
    """The gradient's own memory as a contiguous view in the parameter's shape; laid anew if it lies otherwise."""
    grad = param.grad
    if grad is None:
        raise RuntimeError("autograd called a gradient's hook without a gradient")
    if grad.is_sparse:
        raise RuntimeError("gradwire exchanges dense gradients; build the embedding with sparse=False")
    if grad.stride() != param.stride():
        param.grad = grad = torch.empty_like(param).copy_(grad)
    return grad.detach().as_strided((param.numel(),), (1,)).view(param.shape)


def _settle(future: Future[None], failure: Exception | None) -> None:
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(RuntimeError(f"gradwire's exchange failed: {failure}"))
