"""A vector computed from pieces in one pass, with facts that the pass collects: finiteness, large elements, norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradwire.kernels import collecting, compiled, half, reference
from gradwire.kernels.compiled import Numbers
from gradwire.kernels.copies import copy_


@dataclass(frozen=True)
class Accumulated:
    """A vector and the facts collected while it was computed.

    Attributes:
        values: f[d], the pieces end to end, plus decay * residual if there is one. If the residual is bfloat16, bf16[d]
            with stochastic rounding; readers widen the elements they use.
        finite: whether all values are finite; None if unknown, as on a GPU, where reading it would wait for the device.
        residual: f[d], added to the pieces; None if values are the pieces alone.
        keys: i64[m], keys of the elements that reach a threshold, in their order (see cpu/selection.py); None if none
            were collected.
        cleared: whether the pieces were overwritten with zeros.
        decay: the factor of the residual.
        layers, norms: spans that tile the vector, and the L2 norm of each; empty if none were measured.
    """

    values: Tensor
    finite: bool | None = None
    residual: Tensor | None = None
    keys: Numbers | None = None
    cleared: bool = False
    decay: float = 1.0
    layers: Sequence[tuple[int, int]] = ()
    norms: Sequence[float] = ()

    def zeroed(self) -> Accumulated:
        """Set all values to zero in place, and drop keys and norms."""
        self.values.zero_()
        return replace(self, keys=None, layers=(), norms=())

    def pieces(self) -> Tensor:
        """Return the pieces alone, f[d]: exact, or up to the rounding of the sum if a residual was added."""
        if self.residual is None:
            return self.values.clone()
        return torch.sub(_wide(self.values), _wide(self.residual), alpha=self.decay)

    def topk(self, k: int) -> Tensor | None:
        """Indices int64[k] of the k largest magnitudes, increasing, if enough keys were collected; else None."""
        return None if self.keys is None or not 0 < k <= len(self.keys) else collecting.among(self.keys, k)


def accumulate(
    x: Tensor,
    residual: Tensor | None,
    pieces: Sequence[Tensor],
    largest: int = 0,
    decay: float = 1.0,
    layers: Sequence[tuple[int, int]] = (),
    key: int = 0,
) -> Accumulated:
    """Compute x f[d] in place: the pieces f[...] end to end, plus decay * residual f[d] if there is one.

    x and residual may be bfloat16; the float32 sum is then rounded stochastically, by `key` (half.py).

    With a residual, in the host's memory, this is one pass that leaves zeros in the pieces. With `largest` > 0 a sample
    of the sum sets a threshold that most likely at least so many elements reach, and the pass collects the elements
    that reach it. It also measures the norms of `layers`, spans (start, end) that tile the vector.

    Raises:
        ValueError: the pieces or the layers do not make up x; nothing has been written.
    """
    if (total := sum(piece.numel() for piece in pieces)) != len(x):
        raise ValueError(f"pieces of {total} elements do not make a vector of {len(x)}")
    narrow = x.dtype == torch.bfloat16 and residual is not None
    flat = [piece.reshape(-1).to(torch.float32 if narrow else x.dtype) for piece in pieces]
    if residual is None:
        return _copied(x, flat)
    on_host = x.device.type == "cpu"
    in_place = residual.dtype == x.dtype and compiled.long_sum(x)
    if in_place:
        finite, keys, norms = collecting.accumulate(x, residual, flat, largest, decay, layers, key)
        made = Accumulated(x, finite, residual, keys, cleared=True, decay=decay, layers=layers, norms=norms)
    else:
        if narrow:
            half.round_(x, torch.cat(flat).add_(residual.float().mul_(decay)), key)
        else:
            _add(x, residual, flat, decay)
        finite = bool(reference.finite(x)) if on_host else None
        made = Accumulated(x, finite, residual, cleared=on_host, decay=decay)
    for piece, taken in zip(pieces, flat, strict=True):
        if on_host and not (in_place and taken.data_ptr() == piece.data_ptr()):
            piece.zero_()
    return made


def values(x: Tensor | Accumulated) -> Tensor:
    """Return the vector of an `Accumulated`, or the tensor itself."""
    return x.values if isinstance(x, Accumulated) else x


def _wide(x: Tensor) -> Tensor:
    """Widen bfloat16 to float32."""
    return x.float() if x.dtype == torch.bfloat16 else x


def _add(x: Tensor, residual: Tensor, flat: list[Tensor], decay: float) -> None:
    """Compute x = flat + decay * residual without a temporary."""
    if decay == 1.0:
        torch.cat(flat, out=x).add_(residual)
        return
    # Not `add_(residual, alpha=decay)`, which may round once, where the two passes of a plain step round twice.
    torch.mul(residual, decay, out=x)
    parts: Sequence[Tensor] = torch.split(x, [len(piece) for piece in flat])
    for part, piece in zip(parts, flat, strict=True):
        part.add_(piece)


def _copied(x: Tensor, flat: list[Tensor]) -> Accumulated:
    """Copy the pieces to x, without a residual."""
    if x.device.type != "cpu":
        torch.cat(flat, out=x)
        return Accumulated(x)
    parts: Sequence[Tensor] = torch.split(x, [len(piece) for piece in flat])
    finite = [copy_(part, piece) for part, piece in zip(parts, flat, strict=True)]
    return Accumulated(x, all(finite))
