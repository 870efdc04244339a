"""The pace of a model: seconds of a step, and when in it each parameter's gradient is ready, measured in a few steps.

A step lasts from the end of one synchronised backward pass to the end of the next, so it holds the optimizer, the data
and the forward pass, whatever the training loop does. DDP works as ever meanwhile: times are noted by hooks on the
parameters, which are gone afterwards.
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
"""Bytes of DDP's first bucket, which it keeps small so that something is on its way soon."""

COUNTED, ENOUGH = 5, 3.0
"""Steps that are measured, and seconds after which fewer are."""

STEPS = COUNTED + 2
"""Steps until the pace is told, at most."""


@dataclass(frozen=True)
class Pace:
    """Seconds of a step's forward and backward, of what comes after the last mean, and until each gradient is ready.

    ready: by parameter as DDP counts them, counted from the end of the step before; infinite where none came. period:
    seconds of the step as it was measured, averaging included.
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
        """Seconds until all of these are ready; those that were not used come with the last."""
        return max(min(self.ready[parameter], self.compute) for parameter in parameters)


def trained(ddp: DistributedDataParallel) -> list[Tensor]:
    """The parameters that DDP reduces, in its order."""
    ignored = cast(set[str], ddp.parameters_to_ignore)
    named = cast(Iterable[tuple[str, Tensor]], ddp.module.named_parameters())
    return [param for name, param in named if param.requires_grad and name not in ignored]


def buckets(sizes: Sequence[int], order: Sequence[int], cap: float) -> list[list[int]]:
    """Which parameters, of `sizes` bytes, DDP reduces together: in the order of readiness, up to `cap` bytes or above.

    A bucket is closed by the parameter that fills it; the first is small.
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
    """Note when gradients become ready, for a few steps; then take the hooks away and tell the pace.

    Args:
        ddp: the wrapped model.
        tell: is called with the pace at the end of the last step's backward pass, all gradients averaged.
        agree: returns the same number on all ranks, about its argument; asked at the end of every step but the first.
        counted: steps that are measured, after two that are not; fewer where they take longer than `ENOUGH` seconds.
        silent: nothing is averaged meanwhile: what comes after the last gradient is then DDP's own, the tail.
    """

    def __init__(
        self,
        ddp: DistributedDataParallel,
        tell: Callable[[Pace], None],
        agree: Callable[[float], float],
        counted: int = COUNTED,
        *,
        silent: bool = False,
    ) -> None:
        self.ddp, self.tell, self.agree, self.counted, self.silent = ddp, tell, agree, counted, silent
        self._stamps = stamps(trained(ddp)[0].device)
        self._ended: Any = None  # a moment of the stamps, as those below
        self._now: dict[int, Any] = {}
        self._periods: list[float] = []
        self._ready: list[dict[int, float]] = []
        notes = [self._noter(number) for number in range(len(trained(ddp)))]
        self._parameters = len(notes)
        self._handles: list[RemovableHandle] = [
            param.register_post_accumulate_grad_hook(note) for param, note in zip(trained(ddp), notes, strict=True)
        ]

    def close(self) -> None:
        """Take the hooks away."""
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
        """The end of a synchronised backward pass."""
        ended, started, noted = self._stamps.now(), self._ended, dict(self._now)
        self._now.clear()
        self._ended = ended
        if started is None or not self._handles:
            return
        self._periods.append(self._stamps.seconds(started, ended))
        self._ready.append({number: self._stamps.seconds(started, at) for number, at in noted.items()})
        if len(self._periods) > self.counted or self.agree(sum(self._periods)) > ENOUGH:
            self.close()
            self.tell(self._pace())
        else:
            self._ended = self._stamps.now()  # to agree has taken its time, too

    def _pace(self) -> Pace:
        """Medians over the measured steps; the first is one of them only if it is alone."""
        counted, periods = self._ready[1:] or self._ready, self._periods[1:] or self._periods
        times = [[step[number] for step in counted if number in step] for number in range(self._parameters)]
        ready = tuple(statistics.median(at) if at else float("inf") for at in times)
        last, period = statistics.median(max(step.values()) for step in counted), statistics.median(periods)
        return Pace(last, period - last if self.silent else 0.0, ready, period)


def _after_ddp(end: Callable[[], None]) -> None:
    """Call when DDP has finished: from a callback at the end of backward that comes before DDP's, one behind it."""
    engine = torch.autograd.Variable._execution_engine  # pyright: ignore[reportPrivateUsage] - as DDP does
    engine.queue_callback(lambda: engine.queue_callback(end))
