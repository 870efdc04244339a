"""A model's buffers, such as the running statistics of batch normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from gradwire.ask import AllReduce, Broadcast


class Buffers:
    """Synchronises buffers over the workers: floating-point ones by their mean, the others by rank 0's values.

    The floating-point buffers travel in one vector, at least float32, and the others in one of int64.

    Args:
        current: returns the buffers, which a module may replace by others at any time.
        device: the device on which they are averaged.
    """

    def __init__(self, current: Callable[[], Sequence[Tensor]], device: torch.device) -> None:
        self._current, self.device = current, device
        self._held: tuple[Tensor, Tensor] | None = None
        self._common: tuple[Tensor, Tensor] | None = None

    @property
    def real(self) -> list[Tensor]:
        """The floating-point buffers, which are averaged."""
        return [buffer.detach() for buffer in self._current() if buffer.is_floating_point() and buffer.numel()]

    @property
    def whole(self) -> list[Tensor]:
        """The other buffers, which become rank 0's."""
        return [buffer.detach() for buffer in self._current() if not buffer.is_floating_point() and buffer.numel()]

    def hold(self) -> None:
        """Copy the buffers, so that they can change while the copies are averaged."""
        self._held = self._read()

    def finite(self) -> bool:
        """Whether all values of the floating-point buffers, or of their copies if there are any, are finite."""
        if self._held is not None:
            return bool(self._held[0].isfinite().all())
        return all(bool(buffer.isfinite().all()) for buffer in self.real)

    async def average(self, size: int) -> None:
        """Compute the common values; `catch_up` writes them."""
        real, whole = self._held or self._read()
        mean = (await AllReduce(real)) / size if len(real) else real
        self._common = mean, (await Broadcast(whole, 0) if len(whole) else whole)

    def catch_up(self, *, moved: bool) -> None:
        """Write the common values if `moved`. Buffers that were copied by `hold` are moved by common - copy instead."""
        if moved and self._common is not None:
            for number, buffers in enumerate((self.real, self.whole)):
                sizes = [buffer.numel() for buffer in buffers]
                held = torch.split(self._held[number], sizes) if self._held is not None else [None] * len(sizes)
                for buffer, common, before in zip(buffers, torch.split(self._common[number], sizes), held, strict=True):
                    now = common if before is None else buffer.reshape(-1).to(common) + (common - before)
                    buffer.copy_(now.view(buffer.shape))
        self._common = self._held = None

    async def broadcast(self, root: int, *, write: bool) -> None:
        """Broadcast the root's buffers. Every worker calls it; those that `write` overwrite their own."""
        for values, buffers in zip(self._read(), (self.real, self.whole), strict=True):
            theirs = await Broadcast(values, root)
            sizes = [buffer.numel() for buffer in buffers]
            for buffer, part in zip(buffers if write else [], torch.split(theirs, sizes), strict=False):
                buffer.copy_(part.view(buffer.shape))

    def pending(self) -> list[Tensor]:
        """Return copies and common values of an exchange that `catch_up` has not ended, for a checkpoint; else []."""
        return [] if self._held is None or self._common is None else [*self._held, *self._common]

    def prepare(self, pending: Any) -> list[Tensor]:
        """Copy what `pending` returned, for `resume`. Raises ValueError if it does not fit these buffers."""
        mine, parts = self._read(), cast(list[Any], pending) if isinstance(pending, list) else [None]
        if not all(isinstance(part, Tensor) for part in parts):
            raise ValueError("the checkpoint's buffers are not a list of tensors")
        found = [(part.shape, part.dtype) for part in cast(list[Tensor], parts)]
        if found and found != [(part.shape, part.dtype) for part in (*mine, *mine)]:
            raise ValueError("the checkpoint is of a model with other buffers")
        return [part.detach().to(self.device, copy=True) for part in cast(list[Tensor], parts)]

    def resume(self, prepared: list[Tensor]) -> None:
        """Continue with the values that `prepare` returned."""
        self._held = self._common = None
        if prepared:
            real, whole, mean, root = prepared
            self._held, self._common = (real, whole), (mean, root)

    def _read(self) -> tuple[Tensor, Tensor]:
        """Return the floating-point buffers and the others as two vectors, the second of int64."""
        real = self.real
        kind = torch.float64 if any(buffer.dtype == torch.float64 for buffer in real) else torch.float32
        return _flat(real, kind, self.device), _flat(self.whole, torch.int64, self.device)


def _flat(buffers: Sequence[Tensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    parts = [buffer.reshape(-1).to(device, dtype) for buffer in buffers]
    return torch.cat(parts) if parts else torch.empty(0, dtype=dtype, device=device)
