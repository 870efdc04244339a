"""Magnitudes quantised to the means of a few classes, with a sign: 4 or 2 bits per value.

Wire: | C x float32: means, 0 of an empty class | k codes of `width` bits (wire/bits.py): class, plus C below zero |

The C = 2^(width - 1) classes of a message divide the range from its smallest to its largest magnitude in equal ratios
of at most `RATIO`; smaller magnitudes belong to the lowest class. The mean is the value with the least squared error to
the members of a class, so |C(x) - x|^2 = |x|^2 - |C(x)|^2. The format is deterministic. A message of equal magnitudes,
or of one magnitude and zeros, is exact.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradwire.kernels import rounding
from gradwire.kernels.kernel import Kernel
from gradwire.wire import bits

RATIO = {2: 16.0, 4: 4.0}
"""The largest ratio of a class's upper to its lower end, by the codes' number of bits."""

LARGEST = torch.finfo(torch.float32).max


def count(width: int) -> int:
    """Return the number of classes that a code of `width` bits distinguishes, one of the bits being the sign."""
    return 1 << (width - 1)


def nbytes(k: int, width: int) -> int:
    """Return the bytes of k values."""
    return 4 * count(width) + bits.nbytes(k, width)


def delta(width: int, k: int) -> float:
    """Return the contraction for k values, in the worst case.

    Values in [a, r a] keep at least kappa = 4 r / (1 + r)^2 of their squares in their mean (Kantorovich). This holds
    for all classes but the lowest, which reaches from its upper end b, in units of the largest magnitude, down to 0. If
    its squares sum to Q, its magnitudes sum to at least Q / b, and the mean of its n < k members keeps at least
    Q^2 / (n b^2). The minimum over Q is
        (kappa + c Q^2) / (1 + Q) = 2 kappa / (1 + sqrt(1 + kappa / c))    with c = 1 / (n b^2).
    """
    if k < 2:
        return 1.0
    ratio = RATIO[width]
    kappa, threshold = 4 * ratio / (1 + ratio) ** 2, ratio ** (1 - count(width))
    kept = 2 * kappa / (1 + math.sqrt(1 + kappa * (k - 1) * threshold**2))
    return kept * (1 - 2**-20)  # thresholds and means are float32


def encode(x: Tensor, width: int) -> Tensor:
    """f[..., k] -> u8[..., nbytes(k, width)]."""
    return encode_classes(x, width, *divide(x, width))


def decode(wire: Tensor, k: int, width: int) -> Tensor:
    """u8[..., nbytes(k, width)] -> f32[..., k]."""
    means = torch.empty((*wire.shape[:-1], count(width)), device=wire.device)
    means.view(torch.uint8).copy_(wire[..., : 4 * count(width)])
    return decode_classes(wire, width, torch.cat([means, -means], -1), k)


def divide(x: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """f[..., k] -> the lower ends of all classes but the lowest, f32[..., C - 1], increasing, and a grain f64[..., 1].

    Adding the grain and subtracting it again rounds a magnitude to 2^-26 of the lowest threshold's power of two, which
    does not change magnitudes of at least an eighth of that threshold.
    """
    classes = count(width)
    if x.shape[-1] == 0:
        nothing = x.new_zeros((*x.shape[:-1], 1), dtype=torch.float64)
        return nothing.float().expand(*x.shape[:-1], classes - 1), nothing
    size = x.abs()
    ends = [end.double().clamp_(max=LARGEST) for end in (size.amin(-1, True), size.amax(-1, True))]
    largest = ends[1].clamp(min=2.0**-149)
    lowest = ends[0].maximum(largest / RATIO[width] ** classes)
    thresholds = (lowest * (largest / lowest) ** (torch.arange(1, classes, device=x.device) / classes)).float()
    exponent = torch.frexp(thresholds[..., :1].double()).exponent
    return thresholds, torch.ldexp(torch.ones_like(largest), exponent + 26)


def _encode(x: Tensor, width: int, thresholds: Tensor, grain: Tensor) -> Tensor:
    """f[..., k] and the results of `divide` -> u8[..., nbytes(k, width)]."""
    classes, size = count(width), x.abs().double().clamp_(max=LARGEST)
    member_of = torch.searchsorted(thresholds.double(), size, right=True)
    # Sums of magnitudes rounded to the grain are exact, so their order does not matter.
    sums = torch.zeros((*x.shape[:-1], classes), dtype=torch.float64, device=x.device)
    members = sums.scatter_add(-1, member_of, torch.ones_like(size))
    sums.scatter_add_(-1, member_of, (size + grain) - grain)
    means = (sums / members.clamp_(min=1)).float()
    return torch.cat([means.view(torch.uint8), bits.pack(member_of + classes * (x < 0), width)], -1)


def _decode(wire: Tensor, width: int, table: Tensor, k: int) -> Tensor:
    """u8[..., nbytes(k, width)] and the codes' values f32[..., 2 C] -> f32[..., k]."""
    return table.gather(-1, bits.unpack(wire[..., 4 * count(width) :], width, k))


encode_classes = Kernel(_encode, cpu=rounding.classes)
decode_classes = Kernel(_decode, cpu=rounding.means)
