"""A kernel: one definition in plain torch, and faster twins that give the same result for the arguments they serve.

The laboratory calls kernels with very short vectors hundreds of thousands of times, so `serves` must decline within a
microsecond: it checks lengths first.
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
    """A faster implementation of a reference.

    Attributes:
        by: the library that runs it. Triton and Numba are imported by the first arguments that are worth it.
        serves: whether it can compute the result for given arguments. The answer depends only on the arguments and on
            what is installed, never on earlier calls, so that runs repeat bit for bit.
        run: the implementation.
    """

    by: Literal["triton", "numba", "numpy", "torch"]
    serves: Callable[..., bool]
    run: Callable[P, R]


@dataclass(frozen=True)
class Kernel(Generic[P, R]):
    """A function that calls the first twin that serves the arguments, or else the reference.

    Attributes:
        reference: the definition in short, plain torch, for any dtype on any device.
        cpu: twins for the host's memory, fastest first.
        gpu: twins for a GPU; only for kernels whose first argument is a tensor.

    A twin's result equals the reference's bit for bit, unless the kernel's documentation says how far sums may differ.
    """

    reference: Callable[P, R]
    cpu: tuple[Twin[P, R], ...] = ()
    gpu: tuple[Twin[P, R], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.reference.__doc__)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute the result."""
        on_gpu = self.gpu and gpu.on_gpu(args[0])  # pyright: ignore[reportArgumentType]
        for twin in self.gpu if on_gpu else self.cpu:
            if twin.serves(*args, **kwargs):
                return twin.run(*args, **kwargs)
        return self.reference(*args, **kwargs)
