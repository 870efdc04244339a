"""Magnitudes as the means of a few classes: what wire/values.py sends as bits4 and bits2.

The classes of a message lie between its least and its largest magnitude, in equal ratios of at most `RATIO` each; what
is smaller joins the lowest one. Of all that a class can say the mean of its members is nearest to them, and
|C(x) - x|^2 = |x|^2 - |C(x)|^2.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import compiled
from gradwire.kernels.packing import empty_bytes, nbytes

RATIO = {2: 16.0, 4: 4.0}
"""The largest ratio of a class's ends, for codes of so many bits."""

BORDERS = 7
"""That the loop compares with: those that a format lacks are infinite."""


def count(width: int) -> int:
    """Classes that a code of `width` bits tells, beside the sign."""
    return 1 << (width - 1)


def delta(width: int, k: int) -> float:
    """Contraction for k values, in the worst case.

    Values in [a, r a] keep at least kappa = 4 r / (1 + r)^2 of their squares in their mean (Kantorovich). So do all
    classes but the lowest, which may reach down to 0 below its border b, in units of the largest magnitude. With
    squares Q there, whose sum is at least Q / b, the mean of n < k members keeps Q^2 / (n b^2) or more. Least over Q is
        (kappa + c Q^2) / (1 + Q) = 2 kappa / (1 + sqrt(1 + kappa / c))    with c = 1 / (n b^2).
    """
    if k < 2:
        return 1.0
    ratio = RATIO[width]
    kappa, border = 4 * ratio / (1 + ratio) ** 2, ratio ** (1 - count(width))
    kept = 2 * kappa / (1 + math.sqrt(1 + kappa * (k - 1) * border**2))
    return kept * (1 - 2**-20)  # borders and means are float32


def classify(x: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """f[..., k] -> means f32[..., C], 0 of an empty class, and codes int64[..., k]: class, plus C below zero."""
    classes = count(width)
    size = x.abs().double().clamp_(max=torch.finfo(torch.float32).max)
    borders, grain = divide(x, width)
    place = torch.searchsorted(borders.double(), size, right=True)
    # Rounded to the grain the sums are exact, so that their order does not matter.
    sums = torch.zeros((*x.shape[:-1], classes), dtype=torch.float64, device=x.device)
    members = sums.scatter_add(-1, place, torch.ones_like(size))
    sums.scatter_add_(-1, place, (size + grain) - grain)
    return (sums / members.clamp_(min=1)).float(), place + classes * (x < 0)


def divide(x: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """f[..., k] -> the classes' borders f32[..., C - 1], increasing, and a grain f64[..., 1].

    To add the grain and to take it away again rounds to 2^-26 of the lowest border's power of two, which changes
    nothing from an eighth of the border on.
    """
    classes = count(width)
    if x.shape[-1] == 0:
        nothing = x.new_zeros((*x.shape[:-1], 1), dtype=torch.float64)
        return nothing.float().expand(*x.shape[:-1], classes - 1), nothing
    size = x.abs()
    ends = [
        end.double().clamp_(max=torch.finfo(torch.float32).max) for end in (size.amin(-1, True), size.amax(-1, True))
    ]
    largest = ends[1].clamp(min=2.0**-149)
    least = ends[0].maximum(largest / RATIO[width] ** classes)
    borders = (least * (largest / least) ** (torch.arange(1, classes, device=x.device) / classes)).float()
    exponent = torch.frexp(borders[..., :1].double()).exponent
    return borders, torch.ldexp(torch.ones_like(largest), exponent + 26)


def encode(x: Tensor, width: int) -> Tensor | None:
    """f[..., k] -> u8[..., 4 C + nbytes(k, width)], what `classify` gives; None if no loop serves x."""
    if width not in RATIO or not compiled.reads(x, torch.float32, compiled.SHORT):
        return None
    from gradwire.kernels import cpu

    classes, values = count(width), compiled.rows(x)
    borders, grain = divide(x, width)
    limits = np.full((len(values), BORDERS), np.inf, np.float32)
    limits[:, : classes - 1] = compiled.rows(borders)
    out = empty_bytes(x, 4 * classes + nbytes(x.shape[-1], width))
    sums, members = np.empty((len(values), classes)), np.empty((len(values), classes), np.int64)
    cpu.classes(
        values,
        values.view(np.int32),
        limits.view(np.int32),
        grain.flatten().numpy(),  # pyright: ignore
        width,
        4 * classes,
        compiled.rows(out),
        sums,
        members,
    )
    means = torch.from_numpy((sums / np.maximum(members, 1)).astype(np.float32)).view(*x.shape[:-1], classes)
    out[..., : 4 * classes] = means.view(torch.uint8)
    return out
