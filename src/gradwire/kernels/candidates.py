"""Exact Top-k in a few passes over memory: guess a threshold from a sample, select among the few that pass it."""

from __future__ import annotations

from torch import Tensor

from gradwire.kernels import reference

SAMPLE = 8192
"""Elements that vote on the threshold."""


def top(x: Tensor, k: int) -> Tensor:
    """Do what `reference.top` does. On a long vector most elements are compared once and never sorted."""
    d = x.shape[-1]
    if x.ndim != 1 or d < 8 * SAMPLE or 8 * k > d:
        return reference.top(x, k)
    sample = x[:: d // SAMPLE].abs()
    # Half as many again as wanted, and some for the sample's own noise: too few would cost a second selection.
    wanted = min(sample.numel(), int(1.5 * k / d * sample.numel()) + 16)
    guess = sample.topk(wanted, sorted=False).values.amin()
    passed = (x.abs() >= guess).nonzero().view(-1)
    if passed.numel() < k:
        return reference.top(x, k)
    return passed[reference.top(x[passed], k)]
