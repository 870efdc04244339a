"""Numbers of three values, five to a byte: 3^5 = 243 <= 256, so 1.6 bits each where log2(3) = 1.585 is the least.

Wire: byte j is t[5 j] + 3 t[5 j + 1] + 9 t[5 j + 2] + 27 t[5 j + 3] + 81 t[5 j + 4]; the last is padded with zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
    if bool((wire >= 243).any()):
        raise ValueError(f"bytes of five trits are below 243, got {int(wire.max())}")
    return (wire.unsqueeze(-1) // _weights(wire.device) % 3).flatten(-2)[..., :count]


def _weights(device: torch.device) -> Tensor:
    return torch.tensor([1, 3, 9, 27, 81], dtype=torch.uint8, device=device)
