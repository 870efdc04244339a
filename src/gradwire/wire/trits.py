"""A scale and d trits, five per byte: 3^5 = 243 <= 256, so 1.6 bits per trit; the minimum is log2(3) = 1.585.

Wire: | scale: float32 | ceil(d / 5) bytes |
Byte j is t[5 j] + 3 t[5 j + 1] + 9 t[5 j + 2] + 27 t[5 j + 3] + 81 t[5 j + 4]; the last is padded with zeros. A
trit 0, 1, 2 stands for -, 0, + the scale: dithering's levels for s = 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradwire.kernels import rounding
from gradwire.kernels.kernel import Kernel, Twin
from gradwire.kernels.rounding import FIVES, Meaning
from gradwire.wire import levels, values


def nbytes(count: int) -> int:
    """Return the bytes of `count` trits, without a scale."""
    return (count + 4) // 5


def pack(trits: Tensor) -> Tensor:
    """u8[..., m] of 0, 1 and 2 -> u8[..., nbytes(m)]."""
    length = nbytes(trits.shape[-1])
    fives = torch.nn.functional.pad(trits, (0, 5 * length - trits.shape[-1])).reshape(*trits.shape[:-1], length, 5)
    return (fives * _weights(trits.device)).sum(-1, dtype=torch.uint8)


def unpack(wire: Tensor, count: int) -> Tensor:
    """u8[..., nbytes(m)] -> u8[..., m] (ValueError: a byte is not an encoding of five trits)."""
    check(wire)
    return _unpack(wire, count)


def draw(x: Tensor, scale: Tensor, key: int) -> Tensor:
    """Finite f[..., d], f32[..., 1] -> u8[..., 4 + nbytes(d)], rounded at random."""
    return draw_trits(x, scale, 1, key, FIVES, False)


def read(wire: Tensor, d: int) -> Tensor:
    """u8[..., 4 + nbytes(d)] -> f32[..., d] (ValueError: a byte is not an encoding of five trits)."""
    scale = values.decode(wire[..., :4], "float32", 1)
    floats, sound = read_trits(wire, scale, d, _values)
    if not sound:
        check(wire[..., 4:])
    return floats


def decoded(x: Tensor, scale: Tensor, key: int) -> Tensor:
    """f[..., d], f32[..., 1] -> `read` of `draw`, in x's dtype."""
    return decoded_trits(x, scale, key).to(x.dtype)


def check(wire: Tensor) -> None:
    """Raise ValueError for a byte that is not an encoding of five trits."""
    if bool((wire >= 243).any()):
        raise ValueError(f"bytes of five trits are below 243, got {int(wire.max())}")


def _values(scale: Tensor, signs: Tensor) -> Tensor:
    return signs.float() * scale


def _unpack(wire: Tensor, count: int) -> Tensor:
    return (wire.unsqueeze(-1) // _weights(wire.device) % 3).flatten(-2)[..., :count]


def _weights(device: torch.device) -> Tensor:
    return torch.tensor([1, 3, 9, 27, 81], dtype=torch.uint8, device=device)


def _draw(x: Tensor, scale: Tensor, s: int, key: int, width: int, binary: bool) -> Tensor:
    """Finite f[..., d], f32[..., 1] -> u8[..., 4 + m]: the scale, and trits drawn at random."""
    trits = (levels.linear(x, scale, s, key) + 1).byte()
    return torch.cat([values.encode(scale, "float32"), pack(trits)], -1)


def _read(wire: Tensor, scale: Tensor, d: int, meaning: Meaning) -> tuple[Tensor, bool]:
    """u8[..., 4 + m], f32[..., 1] -> the values of d trits f32[..., d], and whether all bytes are valid."""
    sound = not bool((wire[..., 4:] >= 243).any())
    return meaning(scale, _unpack(wire[..., 4:], d).float() - 1), sound


def _decoded(x: Tensor, scale: Tensor, key: int) -> Tensor:
    """f[..., d], f32[..., 1] -> trits drawn at random times the scale, f32[..., d]."""
    return _values(scale, levels.linear(x, scale, 1, key))


def _by_bytes(x: Tensor, scale: Tensor, key: int) -> Tensor:
    return read(draw(x, scale, key), x.shape[-1])


draw_trits = Kernel(_draw, cpu=rounding.draw)
read_trits = Kernel(_read, cpu=rounding.read_trits)
decoded_trits = Kernel(_decoded, cpu=(Twin("numba", rounding.many, _by_bytes),))
