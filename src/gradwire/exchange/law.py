"""The law of exchanges as a check: all workers return the same mean, and the average of their `own` is that mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4}


class BrokenLaw(AssertionError):
    """An operator or an exchange breaks a law. The message names the law, the spec, the place and the numbers."""


def tolerance(dtype: torch.dtype, workers: int) -> float:
    """Return how far the average of `own` may be from the mean, relative to the largest value of a run.

    Float32's tolerance covers the drift of memories (docs/design.md) and cancellation. A mean in a 16-bit dtype is a
    sum in that dtype.
    """
    return _CLOSE.get(dtype, (8 + workers) * torch.finfo(dtype).eps)


def law_broken(owns: Sequence[Tensor], means: Sequence[Tensor], rtol: float, atol: float) -> str | None:
    """Describe how the workers' own f[d] and mean f[d], in the order of ranks, break the law; None if they do not.

    The average of `own` may be rtol |mean| + atol from the mean. A batch has one mean for all workers.
    """
    for name, vectors in (("own", owns), ("mean", means)):
        for worker, vector in enumerate(vectors):
            if not bool(vector.isfinite().all()):
                return f"worker {worker}'s {name} holds a value that is not finite"
    for worker, mean in enumerate(means):
        if mean.shape != means[0].shape or mean.dtype != means[0].dtype:
            return f"worker {worker}'s mean is {_form(mean)} and worker 0's is {_form(means[0])}"
        if not torch.equal(mean, means[0]):
            return f"worker {worker}'s mean is not worker 0's: {largest_difference(mean, means[0])}"
    average = torch.stack([own.double() for own in owns]).mean(0)
    if average.shape != means[0].shape:
        return f"own is {_form(owns[0])} and mean is {_form(means[0])}"
    mean = means[0].double()
    wrong = (average - mean).abs() > atol + rtol * mean.abs()
    if not bool(wrong.any()):
        return None
    allowed = f"{atol:.3g} + {rtol:.3g} |mean|" if rtol else f"{atol:.3g}"
    return (
        f"the average of the {len(owns)} workers' own is not the mean: {largest_difference(average, mean)}, "
        f"where {allowed} is allowed"
    )


def largest_difference(found: Tensor, wanted: Tensor) -> str:
    """Describe where two tensors of one shape differ most, with both values."""
    gap = (found.double() - wanted.double()).abs().nan_to_num(nan=torch.inf).flatten()
    place = int(gap.argmax())
    mine, other = float(found.flatten()[place]), float(wanted.flatten()[place])
    return f"{mine:.9g} and {other:.9g} at element {place}"


def _form(vector: Tensor) -> str:
    return f"{str(vector.dtype).removeprefix('torch.')}{list(vector.shape)}"
