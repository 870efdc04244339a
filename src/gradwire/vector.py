"""Vectors that implement addition, so that adding k of d values costs k writes and no dense temporary.

A vector may have leading axes (workers); all operations act on the last one. Values keep their dtype until they are
added to a target, and take the target's then.
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
        """Return f[..., d], which may share memory with this vector."""
        return self.values

    def to(self, dtype: torch.dtype) -> Dense:
        """Return this vector with values of the given dtype."""
        return self if self.values.dtype == dtype else Dense(self.values.to(dtype))

    def times(self, factor: float) -> Dense:
        """Return factor times this vector."""
        return Dense(self.values * factor)

    def row(self, worker: int | slice) -> Dense:
        """Return one worker's vector out of f[n, d], or those of several."""
        return Dense(self.values[worker])

    def average(self) -> Dense:
        """Return the average over the leading axis of f[n, d]."""
        # By a float, because division by an int takes as long as the sum of a short vector.
        return Dense(self.values.sum(0).div_(float(self.values.shape[0])))


@dataclass(frozen=True)
class Sparse:
    """k of d values, zero elsewhere: indices int64[..., k] and values f[..., k]. Values of equal indices add up.

    `per_sender` describes a mean: if above 0, every entry is what `per_sender` workers with equal indices sent, so the
    number of an index's senders is `per_sender` times its entries. 0 means that entries do not count senders.
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
            # It sorts first. scatter_add_ on CUDA adds equal indices in any order, and workers' sums would drift apart.
            target.index_put_((self.indices,), values, accumulate=True)
        else:
            target.scatter_add_(-1, self.indices, values)

    def write_to_(self, target: Tensor) -> None:
        """Overwrite target f[..., d] with this vector."""
        self.add_to_(target.zero_())

    def dense(self) -> Tensor:
        """Return f[..., d] in new memory."""
        target = self.values.new_zeros((*self.values.shape[:-1], self.d))
        self.add_to_(target)
        return target

    def to(self, dtype: torch.dtype) -> Sparse:
        """Return this vector with values of the given dtype."""
        return self if self.values.dtype == dtype else replace(self, values=self.values.to(dtype))

    def times(self, factor: float) -> Sparse:
        """Return factor times this vector."""
        return replace(self, values=self.values * factor)

    def over_senders(self, size: int) -> Sparse:
        """Convert the mean f[d] over `size` workers to the mean over the workers that sent each coordinate.

        A mean that is not `per_sender` is returned as it is: every worker has sent every coordinate of it.
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
        """Return the average over the leading axis, with n k entries; the rows' indices may differ."""
        return Sparse(self.indices.flatten(), self.values.flatten() / self.values.shape[0], self.d, per_sender=1)


@dataclass(frozen=True)
class Offset:
    """base + scale * message: the result of a shifted method, without a dense temporary.

    `base` f[..., d] may be a shift in a state; the vector is valid until that state's next step. A base f[d] is added
    to every row of a message of several workers.
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
        """Return f[..., d] in new memory."""
        # In the same two steps as `write_to_`; one fused addition would be rounded differently.
        target = self.base.expand_as(self.message.dense()).clone()
        if self.scale != 0.0:
            self.message.add_to_(target, self.scale)
        return target


Message: TypeAlias = Dense | Sparse
"""The types that a compressor decodes to."""

Vector: TypeAlias = Dense | Sparse | Offset
"""The types of an exchange's results."""


@dataclass(frozen=True)
class Sent:
    """One worker's result of an exchange: what it sent (`own`), and the average over the workers (`mean`).

    The law: `mean` is the same on all workers, and the average of their `own` is `mean`. Both are valid until the
    exchange's next step. `finite` is False if a guard found a value that is not finite: then the memory is untouched
    and `mean` is the plain mean, which is not finite either.
    """

    own: Vector
    mean: Vector
    finite: bool = True


def widen(x: Tensor) -> Tensor:
    """Return x in at least float32, the dtype of memories and of values before encoding."""
    return x.to(wide(x.dtype))


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype if it is at least float32, else float32."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.promote_types(dtype, torch.float32)
