"""The quantisers' common part: a p-norm as the scale, and the constants of p.

The scale is sent as a float32 that is rounded up, and ratios are relative to the sent scale (wire/levels.py). So no
ratio exceeds 1, and rounding at random between levels is unbiased in spite of the scale's rounding.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.checks import is_number, is_whole

Norm: TypeAlias = float | Literal["inf"]
"""p of a p-norm. Infinity is the string "inf", because specs have no other notation for it."""


def check_norm(p: object) -> Norm:
    """Return p as a float or "inf", whose repr is a spec (ValueError: it is below 1 or not a number)."""
    if p in ("inf", math.inf):
        return "inf"
    if not is_number(p) or not p >= 1:
        raise ValueError(f"p must be a number of at least 1 or 'inf', got {p!r}")
    return float(p)


def check_levels(s: object, most: int) -> None:
    """Raise ValueError unless s is a whole number in [1, most]."""
    if not is_whole(s) or not 1 <= s <= most:
        raise ValueError(f"s must be a whole number from 1 to {most}, got {s!r}")


def scale(x: Tensor, p: Norm) -> Tensor:
    """f[..., d] -> f32[..., 1]: |x|_p, computed in float64, rounded up and at most the largest float32."""
    if x.shape[-1] == 0:
        return torch.zeros((*x.shape[:-1], 1), device=x.device)
    sent = _norm(x, p).clamp_(max=torch.finfo(torch.float32).max)
    nearest = sent.float()
    return torch.where(nearest.double() < sent, nearest.nextafter(torch.full_like(nearest, math.inf)), nearest)


def _norm(x: Tensor, p: Norm) -> Tensor:
    """f[..., d] -> f64[..., 1], d > 0."""
    if p == "inf":
        # Without a tensor of magnitudes; `abs_` turns -0.0 into 0.0.
        return x.amax(-1, keepdim=True).maximum(-x.amin(-1, keepdim=True)).double().abs_()
    return kernels.row_norms(x, p)


def root(p: Norm, d: int) -> float:
    """Return d^(1/r) with r = min(p, 2), or 1 if d is 0: the papers' bound sqrt(d) |x|_p <= d^(1/r) |x|_2."""
    return max(d, 1) ** (1 / (2.0 if p == "inf" else min(p, 2.0)))


def product(p: Norm, d: int) -> float:
    """Return a bound of |x|_1 |x|_p / |x|_2^2: d^(1/p) for p <= 2, then sqrt(d), and (1 + sqrt(d)) / 2 for p = inf.

    It is attained for p <= 2 and p = inf.
    """
    return (1 + root(p, d)) / 2 if p == "inf" else root(p, d)
