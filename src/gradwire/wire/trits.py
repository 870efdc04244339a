"""Numbers of three values, five to a byte: 3^5 = 243 <= 256, so 1.6 bits each where log2(3) = 1.585 is the least.

Wire: byte j is t[5 j] + 3 t[5 j + 1] + 9 t[5 j + 2] + 27 t[5 j + 3] + 81 t[5 j + 4]; the last is padded with zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradwire.kernels import compiled, rounding
from gradwire.wire import values


def nbytes(count: int) -> int:
    """Bytes that `count` trits take."""
    return (count + 4) // 5


def pack(trits: Tensor) -> Tensor:
    """u8[..., m] of 0, 1 and 2 -> u8[..., nbytes(m)]."""
    length = nbytes(trits.shape[-1])
    fives = torch.nn.functional.pad(trits, (0, 5 * length - trits.shape[-1])).reshape(*trits.shape[:-1], length, 5)
    return (fives * _weights(trits.device)).sum(-1, dtype=torch.uint8)


def unpack(wire: Tensor, count: int) -> Tensor:
    """u8[..., nbytes(m)] -> u8[..., m]. Raises ValueError for bytes that no five trits make."""
    check(wire)
    return (wire.unsqueeze(-1) // _weights(wire.device) % 3).flatten(-2)[..., :count]


def read(wire: Tensor, d: int) -> Tensor:
    """A scale and d trits, | float32 | nbytes(d) | -> f32[..., d]: trit - 1 times the scale."""
    scale = values.decode(wire[..., :4], "float32", 1)
    if d < compiled.LONG or not compiled.reads(wire, torch.uint8, 4 + nbytes(d)):
        return (unpack(wire[..., 4:], d).float() - 1).mul_(scale)
    signs = torch.arange(-1.0, 2.0).expand(*wire.shape[:-1], -1)
    floats, largest = rounding.look_up(wire, 4, rounding.TRITS, signs * scale, d)
    if largest > 2:
        check(wire[..., 4:])
    return floats


def check(wire: Tensor) -> None:
    """Refuse bytes that no five trits make."""
    if bool((wire >= 243).any()):
        raise ValueError(f"bytes of five trits are below 243, got {int(wire.max())}")


def _weights(device: torch.device) -> Tensor:
    return torch.tensor([1, 3, 9, 27, 81], dtype=torch.uint8, device=device)
