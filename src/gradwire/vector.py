"""Vectors that know how to add themselves, so that sending k of d values costs k writes and no dense temporary.

A vector may carry leading axes (workers); everything acts on the last one. Values keep their dtype until they are added
to a target, which decides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dense:
    """All values: f[..., d]."""

    values: Tensor

    def add_to_(self, target: Tensor, alpha: float = 1.0) -> None:
        """Add alpha times this vector to target f[..., d], in place."""
        target.add_(self.values, alpha=alpha)

    def write_to_(self, target: Tensor) -> None:
        """Overwrite target f[..., d] with this vector."""
        target.copy_(self.values)

    def dense(self) -> Tensor:
        """Return f[..., d]; it may share memory with the vector."""
        return self.values

    def to(self, dtype: torch.dtype) -> Dense:
        """Return the vector with values of another dtype."""
        return self if self.values.dtype == dtype else Dense(self.values.to(dtype))

    def times(self, factor: float) -> Dense:
        """Return factor times this vector."""
        return Dense(self.values * factor)

    def row(self, worker: int | slice) -> Dense:
        """Return one worker's vector out of f[n, d], or those of several."""
        return Dense(self.values[worker])

    def average(self) -> Dense:
        """Return the average over the leading axis of f[n, d]."""
        # By a float: to divide by an int takes as long again as to sum a short vector.
        return Dense(self.values.sum(0).div_(float(self.values.shape[0])))


@dataclass(frozen=True)
class Sparse:
    """k of d values, zero elsewhere: indices int64[..., k], values f[..., k]. An index that comes twice adds twice.

    `per_sender` tells that every entry of a mean is the part of one worker, or of so many that sent alike, so that an
    index comes as often as it was sent; 0 where entries are not so.
    """

    indices: Tensor
    values: Tensor
    d: int
    per_sender: int = 0

    def add_to_(self, target: Tensor, alpha: float = 1.0) -> None:
        """Add alpha times this vector to target f[..., d], in place: k writes."""
        values = self.values.to(target.dtype)
        if alpha != 1.0:
            values = values * alpha
        if target.is_cuda and target.ndim == 1:
            # Sorts first: scatter_add_ adds equal indices in any order there, and workers' sums would drift apart.
            target.index_put_((self.indices,), values, accumulate=True)
        else:
            target.scatter_add_(-1, self.indices, values)

    def write_to_(self, target: Tensor) -> None:
        """Overwrite target f[..., d] with this vector."""
        self.add_to_(target.zero_())

    def dense(self) -> Tensor:
        """Return f[..., d], newly made."""
        target = self.values.new_zeros((*self.values.shape[:-1], self.d))
        self.add_to_(target)
        return target

    def to(self, dtype: torch.dtype) -> Sparse:
        """Return the vector with values of another dtype."""
        return self if self.values.dtype == dtype else replace(self, values=self.values.to(dtype))

    def times(self, factor: float) -> Sparse:
        """Return factor times this vector."""
        return replace(self, values=self.values * factor)

    def over_senders(self, size: int) -> Sparse:
        """Turn the mean f[d] over `size` workers into the mean over those that sent a coordinate.

        Itself where entries are not `per_sender`: every worker has sent a part of each.
        """
        if not self.per_sender:
            return self
        counts = torch.zeros(self.d, dtype=torch.int32, device=self.indices.device)
        counts.index_add_(0, self.indices, counts.new_ones(1).expand_as(self.indices))
        return replace(self, values=self.values * (size / self.per_sender) / counts[self.indices])

    def row(self, worker: int | slice) -> Sparse:
        """Return one worker's vector out of n, or those of several."""
        return Sparse(self.indices[worker], self.values[worker], self.d)

    def average(self) -> Sparse:
        """Return the average over the leading axis: up to n k entries, supports need not agree."""
        return Sparse(self.indices.flatten(), self.values.flatten() / self.values.shape[0], self.d, per_sender=1)


@dataclass(frozen=True)
class Offset:
    """base + scale * message: what a shifted method knows after a message, without a dense temporary.

    `base` f[..., d] may be a shift that lives on in a state: the vector is valid until that state's next step. A base
    [d] serves all rows of a message of several workers.
    """

    base: Tensor
    message: Vector
    scale: float

    def add_to_(self, target: Tensor, alpha: float = 1.0) -> None:
        """Add alpha times this vector to target f[..., d], in place."""
        target.add_(self.base, alpha=alpha)
        if self.scale != 0.0:
            self.message.add_to_(target, alpha * self.scale)

    def write_to_(self, target: Tensor) -> None:
        """Overwrite target f[..., d] with this vector."""
        target.copy_(self.base)
        if self.scale != 0.0:
            self.message.add_to_(target, self.scale)

    def dense(self) -> Tensor:
        """Return f[..., d], newly made."""
        # By the same two steps as `write_to_`, which one fused addition would round otherwise.
        target = self.base.expand_as(self.message.dense()).clone()
        if self.scale != 0.0:
            self.message.add_to_(target, self.scale)
        return target


Message: TypeAlias = Dense | Sparse
"""What a compressor decodes."""

Vector: TypeAlias = Dense | Sparse | Offset
"""What an exchange returns."""


@dataclass(frozen=True)
class Sent:
    """What one worker knows after an exchange.

    The law: `mean` is the same on all workers, and the average of their `own` is `mean`. Both may be read until the
    exchange's next step. `finite` is False where a guard found a value that was not finite: then the memory is
    untouched and `mean` is the plain mean, not finite either.
    """

    own: Vector
    mean: Vector
    finite: bool = True


def widen(x: Tensor) -> Tensor:
    """Return x in at least float32, the dtype in which messages are made and memories kept."""
    return x.to(wide(x.dtype))


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype if it is at least float32, else float32."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.promote_types(dtype, torch.float32)
