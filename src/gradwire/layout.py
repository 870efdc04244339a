"""What a worker may know: where things lie in a flat vector (Layout) and whose turn it is (Turn)."""

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
        names: one unique name per tensor, in the order in which they lie.
        shapes: one shape per name; a size of 0 is an ordinary case.

    Raises:
        ValueError: names and shapes differ in number, a name comes twice, or a size is negative.
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
        """Elements of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @cached_property
    def d(self) -> int:
        """Elements of the flat vector."""
        return sum(self.sizes)

    @cached_property
    def digest(self) -> bytes:
        """Sixteen bytes that tell this layout from any other, the same in every process."""
        return hashlib.blake2b(repr((self.names, self.shapes)).encode(), digest_size=16).digest()

    def __hash__(self) -> int:
        # Layouts are looked up at every step: a hundred names and shapes are hashed once.
        return hash(self.digest)

    def cut(self, flat: Tensor) -> dict[str, Tensor]:
        """View the flat vector [d] as its named tensors; writing to a view writes to `flat`."""
        if flat.shape != (self.d,):
            raise ValueError(f"this layout cuts a vector of {self.d} elements, got shape {tuple(flat.shape)}")
        parts: Sequence[Tensor] = torch.split(flat, list(self.sizes))
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}


@dataclass(frozen=True)
class Turn:
    """All that an algorithm may know about its place in the world: one worker, one step, one layout.

    Randomness is a function of (seed, step, rank or all, layout, path): a checkpoint stores `seed` and `step` and no
    generator, and two operators that take different `fork`s draw from independent streams.

    A batched turn stands for all workers at once. Its rank is the slice of all rows, so that `rows[turn.rank]` is what
    belongs to the turn: one row, or every row.

    `params` gives the model's parameters f[d] at which the gradients were taken, for methods that compress iterates; it
    is None where they are unknown. `lr` is the learning rate by which the optimizer will multiply this step's mean,
    for memories that keep it; None where it is unknown. `budget` is this layout's part of a budget for several layouts,
    relative to its part of all elements. `unit` is the number of this exchange among those of its step.
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
        """A number from 0 to 127 that neighbouring units and steps do not have."""
        return (61 * self.step + 37 * self.unit) % 128

    def fork(self, name: str) -> Turn:
        """Give a part of a method its own stream of randomness."""
        return replace(self, path=(*self.path, name))

    def key(self, *, shared: bool) -> int:
        """Draw a number in [0, 2^63): the same for every worker if `shared`, else this worker's own."""
        return self.keys([self.step], shared=shared)[0]

    def keys(self, steps: Iterable[int], *, shared: bool) -> list[int]:
        """Draw what `key` would at each of these steps."""
        who = repr(("all" if shared else self.rank, self.path))[1:]
        empty = hashlib.blake2b(key=self.layout.digest, digest_size=8)
        found: list[int] = []
        for step in steps:
            digest = empty.copy()
            digest.update(f"({self.seed!r}, {step!r}, {who}".encode())
            found.append(int.from_bytes(digest.digest(), "little") >> 1)
        return found

    def rng(self, *, shared: bool, device: torch.device | str = "cpu") -> torch.Generator:
        """Open a generator on `device`, seeded by `key(shared=shared)`: shared by all workers, or this worker's own."""
        return torch.Generator(device).manual_seed(self.key(shared=shared))


Draws: TypeAlias = Callable[[Turn, range], Sequence[Tensor]]
"""What a turn draws at each step of a range: a function of the turn, whatever its own step is, and of nothing else."""


class StepDependent(Exception):
    """An algorithm has looked at the step of a turn that stands for every step."""


@dataclass(frozen=True, eq=False)
class AnyStep:
    """In place of a turn's step: the turn stands for every step, and its round is recorded.

    An algorithm may ask it for draws. To look at it, or to draw otherwise, raises `StepDependent`.

    Args:
        draw: notes that the round needs these draws, and returns those of one step.
    """

    draw: Callable[[Turn, Draws], Tensor]

    def _refuse(self, *others: object) -> int:
        raise StepDependent("this round depends on its step otherwise than by draws")

    __eq__ = __hash__ = __bool__ = __repr__ = __index__ = __int__ = _refuse  # pyright: ignore
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __mod__ = __floordiv__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = _refuse  # pyright: ignore


def bytes_of(tensor: Tensor) -> Tensor:
    """All bytes of a tensor in its own order, u8[nbytes] on the host; its memory itself where that lies so."""
    flat = tensor.detach().cpu().reshape(-1)
    if flat.stride() != (1,):  # a single value may have any stride
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8)
