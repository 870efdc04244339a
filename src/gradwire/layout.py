"""What an algorithm may know: the tensors in a flat vector (Layout), and its worker, step and seed (Turn)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the tensors that lie one after the other in a flat vector.

    Args:
        names: one unique name per tensor, in the vector's order.
        shapes: one shape per name; sizes may be 0.

    Raises:
        ValueError: names and shapes differ in number, a name is repeated, or a size is negative.
    """

    names: Sequence[str]
    shapes: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        names, shapes = tuple(self.names), tuple(tuple(int(size) for size in shape) for shape in self.shapes)
        if len(names) != len(shapes):
            raise ValueError(f"a layout needs one shape per name, got {len(names)} names and {len(shapes)} shapes")
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"names in a layout must be unique, these come twice: {', '.join(twice)}")
        if any(size < 0 for shape in shapes for size in shape):
            raise ValueError(f"sizes in a layout must not be negative, got {shapes}")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "shapes", shapes)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The number of elements of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @cached_property
    def d(self) -> int:
        """The number of elements of the flat vector."""
        return sum(self.sizes)

    @cached_property
    def digest(self) -> bytes:
        """A 16-byte hash of names and shapes, the same in every process."""
        return hashlib.blake2b(repr((self.names, self.shapes)).encode(), digest_size=16).digest()

    def __hash__(self) -> int:
        # Layouts are looked up at every step, so a hundred names and shapes are hashed once only.
        return hash(self.digest)

    def cut(self, flat: Tensor) -> dict[str, Tensor]:
        """Return views of the flat vector [d] as its named tensors (ValueError: another shape)."""
        if flat.shape != (self.d,):
            raise ValueError(f"this layout cuts a vector of {self.d} elements, got shape {tuple(flat.shape)}")
        parts: Sequence[Tensor] = torch.split(flat, list(self.sizes))
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}


@dataclass(frozen=True)
class Turn:
    """All that an algorithm may know about its worker, its step and its unit.

    Randomness is a function of (seed, step, rank or all, layout, path): a checkpoint stores `seed` and `step` and no
    generator, and operators with different `fork`s draw from independent streams.

    A batched turn stands for all workers. Its rank is the slice of all rows, so that `rows[turn.rank]` is the turn's
    own: one row, or every row.

    Args:
        rank: the worker's rank, or the slice of all rows.
        size: number of workers.
        step: number of the step.
        layout: the tensors in the vector.
        seed: the seed of all randomness.
        path: names of the `fork`s so far.
        params: returns the model's parameters f[d] at which the gradients were taken, for methods that compress
            iterates; None if they are unknown.
        lr: the learning rate by which the optimizer will multiply this step's mean, for memories that keep it; None if
            it is unknown.
        budget: this layout's part of a budget that several layouts share, relative to its part of all elements.
        unit: number of this exchange among those of its step.
    """

    rank: int | slice
    size: int
    step: int
    layout: Layout
    seed: int = 0
    path: tuple[str, ...] = field(default=())
    params: Callable[[], Tensor] | None = field(default=None, compare=False)
    lr: float | None = field(default=None, compare=False)
    budget: float = field(default=1.0, compare=False)
    unit: int = field(default=0, compare=False)

    @property
    def tag(self) -> int:
        """A number from 0 to 127 that differs from those of neighbouring units and steps."""
        return (61 * self.step + 37 * self.unit) % 128

    def fork(self, name: str) -> Turn:
        """Return this turn with an independent stream of randomness, for one part of a method."""
        return replace(self, path=(*self.path, name))

    def key(self, *, shared: bool) -> int:
        """Draw a number in [0, 2^63): the same on all workers if `shared`, else this worker's own."""
        return self.keys([self.step], shared=shared)[0]

    def keys(self, steps: Iterable[int], *, shared: bool) -> list[int]:
        """Return what `key` would draw at each of these steps."""
        who = repr(("all" if shared else self.rank, self.path))[1:]
        empty = hashlib.blake2b(key=self.layout.digest, digest_size=8)
        found: list[int] = []
        for step in steps:
            digest = empty.copy()
            digest.update(f"({self.seed!r}, {step!r}, {who}".encode())
            found.append(int.from_bytes(digest.digest(), "little") >> 1)
        return found

    def rng(self, *, shared: bool, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a generator on `device`, seeded with `key`: the same on all workers if `shared`, else one's own."""
        return torch.Generator(device).manual_seed(self.key(shared=shared))


Draws: TypeAlias = Callable[[Turn, range], Sequence[Tensor]]
"""Returns a turn's draws at each step of a range. It depends on the turn alone, and not on the turn's own step."""


class StepDependent(Exception):
    """An algorithm has read the step of a turn that stands for every step."""


@dataclass(frozen=True, eq=False)
class AnyStep:
    """A turn's step while a round is recorded: the turn stands for every step.

    An algorithm may request draws from it. Reading it, or drawing in any other way, raises `StepDependent`.

    Args:
        draw: records that the round needs these draws, and returns those of one step.
    """

    draw: Callable[[Turn, Draws], Tensor]

    def _refuse(self, *others: object) -> int:
        raise StepDependent("this round depends on its step otherwise than by draws")

    __eq__ = __hash__ = __bool__ = __repr__ = __index__ = __int__ = _refuse  # pyright: ignore
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __mod__ = __floordiv__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = _refuse  # pyright: ignore


def bytes_of(tensor: Tensor) -> Tensor:
    """Return the bytes u8[nbytes] of a tensor's elements in order, on the host; a view if they lie so already."""
    flat = tensor.detach().cpu().reshape(-1)
    if flat.stride() != (1,):  # a single value may have any stride
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8)
