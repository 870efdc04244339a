"""A kernel: one definition in plain torch, and faster twins that give the same result for the arguments they serve.

A laboratory calls kernels with vectors of a few numbers, hundreds of thousands of times: `serves` must say no in a
microsecond, so it looks at lengths first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, ParamSpec, TypeVar

from gradwire.kernels import gpu

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Twin(Generic[P, R]):
    """A faster way to compute what a reference defines.

    Attributes:
        by: what runs it. Triton and Numba are imported by the first arguments that are worth it.
        serves: given the arguments, whether it computes this. The answer depends on them and on what is installed,
            never on what ran before, so that a run repeats bit for bit.
        run: compute it.
    """

    by: Literal["triton", "numba", "numpy", "torch"]
    serves: Callable[..., bool]
    run: Callable[P, R]


@dataclass(frozen=True)
class Kernel(Generic[P, R]):
    """Call the first twin that serves the arguments, or else the reference.

    Attributes:
        reference: the definition, plain torch of any dtype on any device, short enough to be read.
        cpu: twins for the host's memory, fastest first.
        gpu: twins for a GPU, of kernels whose first argument is a tensor.

    A twin's result is the reference's to the last bit, but where a definition says how far sums may differ.
    """

    reference: Callable[P, R]
    cpu: tuple[Twin[P, R], ...] = ()
    gpu: tuple[Twin[P, R], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.reference.__doc__)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute it."""
        on_gpu = self.gpu and gpu.on_gpu(args[0])  # pyright: ignore[reportArgumentType]
        for twin in self.gpu if on_gpu else self.cpu:
            if twin.serves(*args, **kwargs):
                return twin.run(*args, **kwargs)
        return self.reference(*args, **kwargs)
