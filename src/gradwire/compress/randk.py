"""Rand-k: keep k = density * d values at random places, scaled by d / k or not.

Scaled it is unbiased with omega = d / k - 1, with equality for every x (Wangni et al. 2018, arXiv:1710.09854); not
scaled it contracts with delta = k / d, with equality too. Every worker draws its own support. Wire: | key: 8 bytes,
little-endian | value block (wire/values.py) |; the support is a function of the key (kernels/support.py), so no index
is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.compress.protocol import check_density, check_length, from_omega, kept, pick
from gradwire.layout import Layout, Turn
from gradwire.registry import part
from gradwire.vector import Dense, Message, Sparse
from gradwire.wire import values as formats

PLACES, STEPS = 1 << 16, 1 << 9
"""The most that a batched turn draws at once, for itself and the steps after it."""

SHORT = 2048
"""Elements up to which one pass over all of them is quicker than picking k and putting them back."""


_ONE_BY_ONE = ("bfloat16", "float32", "float64")
"""Formats that round a value without drawing and without regard to the others, so that zeros among them do no harm."""


@part("randk", "compressor", example="randk(density=0.1)")
@dataclass(frozen=True)
class RandK:
    """Keep density * d random values, at least one; scaled by d / k to be unbiased, or not, to contract."""

    density: float
    values: formats.Format = "float32"
    unbiased: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", check_density(self.density))
        formats.check(self.values)
        if self.unbiased not in (True, False):
            raise ValueError(f"unbiased must be true or false, got {self.unbiased!r}")
        if self.unbiased and formats.OMEGA[self.values] is None:
            raise ValueError(
                f"randk promises to be unbiased and {self.values} rounds with a bias; use float32 or natural, "
                "or unbiased=false"
            )

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """f[..., d] -> u8[..., nbytes(d)]; with leading axes every row draws a support of its own."""
        places, values = pick(self, x, turn)
        block = formats.encode(values, self.values, turn.fork("values").key(shared=False))
        return torch.cat([self.head(places, x.shape[-1], turn), block], -1)

    def decode(self, wire: Tensor, d: int) -> Sparse:
        """u8[..., nbytes(d)] -> Sparse with k entries."""
        check_length(self, wire, d)
        values = formats.decode(wire[..., 8:], self.values, self.count(d))
        return Sparse(self.places(wire[..., :8], d), values, d)

    def apply(self, x: Tensor, turn: Turn) -> Message:
        """f[..., d] -> what is decoded, in x's dtype."""
        if x.numel() <= SHORT and turn.rank == slice(None) and self.values in _ONE_BY_ONE:
            return Dense(formats.said(x * _mask(self, x, turn), self.values, turn))
        places, values = pick(self, x, turn)
        # Only natural draws bits, and a fork costs more than a short row of values.
        fork = turn.fork("values") if self.values == "natural" else turn
        return Sparse(places, formats.said(values, self.values, fork), x.shape[-1])

    def choose(self, x: Tensor, turn: Turn) -> Tensor:
        """f[..., d] -> int64[..., k], increasing places; a batched turn of short vectors has them drawn ahead."""
        d, batch_shape = x.shape[-1], x.shape[:-1]
        k = self.count(d)
        steps = self.steps(x) if turn.rank == slice(None) else 1
        if steps == 1:
            return kernels.support(turn.key(shared=False) + _rows(batch_shape, x.device), d, k)
        late = turn.step % steps
        return _ahead(
            turn.layout, turn.size, turn.seed, turn.path, turn.step - late, steps, batch_shape, d, k, x.device
        )[late]

    def steps(self, x: Tensor) -> int:
        """For how many steps a batched turn draws supports at once, a power of two: 1 unless its vectors are short."""
        ahead = min(STEPS, PLACES // max(1, x.shape[:-1].numel() * self.count(x.shape[-1])))
        return 1 << max(0, ahead.bit_length() - 1)

    def head(self, places: Tensor, d: int, turn: Turn) -> Tensor:
        """int64[..., k] -> u8[..., 8]: the key that this turn chose them by."""
        keys = turn.key(shared=False) + _rows(places.shape[:-1], places.device)
        return keys.unsqueeze(-1).view(torch.uint8)

    def places(self, head: Tensor, d: int) -> Tensor:
        """u8[..., 8] -> int64[..., k]."""
        key = head.clone(memory_format=torch.contiguous_format).view(torch.int64).squeeze(-1)
        return kernels.support(key, d, self.count(d))

    def count(self, d: int) -> int:
        """How many of d values are kept."""
        return kept(self.density, d)

    def head_nbytes(self, d: int) -> int:
        """Bytes of the key."""
        return 8

    def gain(self, d: int) -> float:
        """d / k if unbiased."""
        return d / self.count(d) if self.unbiased and d else 1.0

    def nbytes(self, d: int) -> int:
        """Bytes on the wire."""
        return 8 + formats.nbytes(self.values, self.count(d))

    def omega(self, d: int) -> float | None:
        """d / k - 1 if unbiased; the format's own variance multiplies what is kept."""
        share = self.count(d) / d if d else 1.0
        return (1 + (formats.OMEGA[self.values] or 0.0)) / share - 1 if self.unbiased else None

    def delta(self, d: int) -> float | None:
        """If unbiased 1 - omega where that is positive, else k / d times the contraction of the value format."""
        omega = self.omega(d)
        if omega is not None:
            return from_omega(omega)
        return formats.delta(self.values, self.count(d)) * (self.count(d) / d if d else 1.0)


def _rows(batch_shape: torch.Size, device: torch.device) -> Tensor:
    """Numbers of the rows, int64[*batch_shape]: what tells one row's key from another's."""
    return torch.arange(batch_shape.numel(), device=device).view(batch_shape)


@dataclass
class _Masks:
    """The supports of a block of steps as vectors of gains and zeros, and whose they are."""

    whose: tuple[object, ...] = ()
    steps: range = range(0)
    rows: tuple[Tensor, ...] = ()


_recent = _Masks()
"""One block is enough: to find it among several would take longer than a short vector's whole message."""


def _mask(randk: RandK, x: Tensor, turn: Turn) -> Tensor:
    """The support of a batched turn's x as a vector f[*x.shape] of gains and zeros."""
    whose = (randk, turn.layout, turn.size, turn.seed, turn.path, x.shape, x.dtype, x.device)
    if turn.step not in _recent.steps or _recent.whose != whose:
        steps = randk.steps(x)
        start, batch_shape, d = turn.step - turn.step % steps, x.shape[:-1], x.shape[-1]
        supports = _ahead(
            turn.layout, turn.size, turn.seed, turn.path, start, steps, batch_shape, d, randk.count(d), x.device
        )
        masks = torch.zeros((steps, *x.shape), dtype=x.dtype, device=x.device)
        _recent.rows = masks.scatter_(-1, torch.stack(supports), randk.gain(d)).unbind()
        _recent.whose, _recent.steps = whose, range(start, start + steps)
    return _recent.rows[turn.step - _recent.steps.start]


@lru_cache(maxsize=64)
def _ahead(
    layout: Layout,
    size: int,
    seed: int,
    path: tuple[str, ...],
    start: int,
    steps: int,
    batch_shape: torch.Size,
    d: int,
    k: int,
    device: torch.device,
) -> tuple[Tensor, ...]:
    """The supports int64[*batch_shape, k] of so many steps of a batched turn, by their own keys but in one call."""
    turns = [Turn(slice(None), size, start + step, layout, seed, path) for step in range(steps)]
    first = torch.tensor([turn.key(shared=False) for turn in turns], device=device)
    return kernels.support(first.view(-1, *[1] * len(batch_shape)) + _rows(batch_shape, device), d, k).unbind()
