"""The pace of a model: the seconds of a step and when each parameter's gradient is ready, measured in a few steps.

A step lasts from the end of one synchronised backward pass to the end of the next. So it includes the optimizer, data
loading and the forward pass, whatever the training loop does. DDP works as usual meanwhile: hooks on the parameters
record times and are removed afterwards.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from gradwire.advice.stamps import stamps

FIRST_BUCKET = 2**20
"""Bytes of DDP's first bucket, which is small so that communication begins early."""

COUNTED, ENOUGH = 5, 3.0
"""Number of measured steps, and seconds after which measuring ends early."""

STEPS = COUNTED + 2
"""The most steps until the pace is reported."""


@dataclass(frozen=True)
class Pace:
    """Times of a step, in seconds.

    compute: from the end of the step before to the last gradient. tail: what DDP itself adds after the last mean.
    ready: for each parameter, in DDP's order, from the end of the step before to its gradient; inf if none came.
    period: the whole step as it was measured, averaging included.
    """

    compute: float
    tail: float
    ready: tuple[float, ...]
    period: float

    @property
    def order(self) -> list[int]:
        """Parameters in the order in which their gradients become ready."""
        return sorted(range(len(self.ready)), key=self.ready.__getitem__)

    def when(self, parameters: Iterable[int]) -> float:
        """Seconds until all of these parameters' gradients are ready; unused parameters count as `compute`."""
        return max(min(self.ready[parameter], self.compute) for parameter in parameters)


def trained(ddp: DistributedDataParallel) -> list[Tensor]:
    """The parameters that DDP reduces, in its order."""
    ignored = cast(set[str], ddp.parameters_to_ignore)
    named = cast(Iterable[tuple[str, Tensor]], ddp.module.named_parameters())
    return [param for name, param in named if param.requires_grad and name not in ignored]


def buckets(sizes: Sequence[int], order: Sequence[int], cap: float) -> list[list[int]]:
    """Group parameters, of `sizes` bytes, into buckets as DDP does: in the order of readiness, about `cap` bytes each.

    A bucket ends with the parameter that fills it, so it may exceed the cap. The first bucket is small.
    """
    cut: list[list[int]] = []
    held, limit = 0.0, min(FIRST_BUCKET, cap)
    for parameter in order:
        if not cut or held >= limit:
            limit = cap if cut else limit
            cut.append([])
            held = 0.0
        cut[-1].append(parameter)
        held += sizes[parameter]
    return cut


class Watch:
    """Record when gradients become ready for a few steps, then remove the hooks and report the pace.

    Args:
        ddp: the wrapped model.
        report: called with the pace at the end of the last step's backward pass, when all gradients are averaged.
        agree: turns a number of seconds into one that is equal on all ranks, such as their mean; called at the end of
            every step but the first.
        counted: number of measured steps, after two that are not; fewer if they take more than `ENOUGH` seconds.
        silent: no gradients are averaged meanwhile; the time after the last gradient is then DDP's own, the tail.
    """

    def __init__(
        self,
        ddp: DistributedDataParallel,
        report: Callable[[Pace], None],
        agree: Callable[[float], float],
        counted: int = COUNTED,
        *,
        silent: bool = False,
    ) -> None:
        self.ddp, self.report, self.agree, self.counted, self.silent = ddp, report, agree, counted, silent
        self._stamps = stamps(trained(ddp)[0].device)
        self._ended: Any = None  # a time stamp, as are those in _now
        self._now: dict[int, Any] = {}
        self._periods: list[float] = []
        self._ready: list[dict[int, float]] = []
        notes = [self._noter(number) for number in range(len(trained(ddp)))]
        self._parameters = len(notes)
        self._handles: list[RemovableHandle] = [
            param.register_post_accumulate_grad_hook(note) for param, note in zip(trained(ddp), notes, strict=True)
        ]

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _noter(self, number: int) -> Callable[[Tensor], None]:
        def note(_: Tensor) -> None:
            if self.ddp.require_backward_grad_sync:
                if not self._now:
                    _after_ddp(self._end)
                self._now[number] = self._stamps.now()

        return note

    def _end(self) -> None:
        """Record the end of a synchronised backward pass; after the last one, report the pace."""
        ended, started, noted = self._stamps.now(), self._ended, dict(self._now)
        self._now.clear()
        self._ended = ended
        if started is None or not self._handles:
            return
        self._periods.append(self._stamps.seconds(started, ended))
        self._ready.append({number: self._stamps.seconds(started, at) for number, at in noted.items()})
        if len(self._periods) > self.counted or self.agree(sum(self._periods)) > ENOUGH:
            self.close()
            self.report(self._pace())
        else:
            self._ended = self._stamps.now()  # the call of `agree` must not count towards the next step

    def _pace(self) -> Pace:
        """The medians over the measured steps, without the first unless it is the only one."""
        counted, periods = self._ready[1:] or self._ready, self._periods[1:] or self._periods
        times = [[step[number] for step in counted if number in step] for number in range(self._parameters)]
        ready = tuple(statistics.median(at) if at else float("inf") for at in times)
        last, period = statistics.median(max(step.values()) for step in counted), statistics.median(periods)
        return Pace(last, period - last if self.silent else 0.0, ready, period)


def _after_ddp(end: Callable[[], None]) -> None:
    """Call `end` when DDP has finished its backward pass.

    A callback queued now runs before DDP's own; the callback that it queues runs after it.
    """
    engine = torch.autograd.Variable._execution_engine  # pyright: ignore[reportPrivateUsage] - as DDP does
    engine.queue_callback(lambda: engine.queue_callback(end))
