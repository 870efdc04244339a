"""A stranger's package, placed in a folder as pip would: a module, and an entry point that names it."""

from __future__ import annotations

from pathlib import Path

PARTS = '''
"""Two parts of a package that gradwire knows nothing of."""

from dataclasses import dataclass

import torch
from torch import Tensor

import gradwire


@gradwire.register("mine", "compressor", example="ef(mine(density=0.1))")
@dataclass(frozen=True)
class Mine:
    """Send a window of neighbouring coordinates, at a place of the worker's own choice. Start int64, then float32."""

    density: float

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ValueError(f"density must lie in (0, 1], got {self.density}")

    def encode(self, x: Tensor, turn: gradwire.Turn) -> Tensor:
        d, k = x.shape[-1], self.count(x.shape[-1])
        start = torch.randint(d - k + 1, (*x.shape[:-1], 1), generator=turn.rng(shared=False))
        values = x.gather(-1, start + torch.arange(k)).float()
        return torch.cat([start.view(torch.uint8), values.view(torch.uint8)], -1)

    def decode(self, wire: Tensor, d: int) -> gradwire.Sparse:
        if wire.shape[-1] != self.nbytes(d):
            raise ValueError(f"{self} in dimension {d} takes {self.nbytes(d)} bytes, got {wire.shape[-1]}")
        start = wire[..., :8].contiguous().view(torch.int64)
        values = wire[..., 8:].contiguous().view(torch.float32)
        return gradwire.Sparse(start + torch.arange(self.count(d)), values, d)

    def nbytes(self, d: int) -> int:
        return 8 + 4 * self.count(d)

    def omega(self, d: int) -> float | None:
        return None

    def delta(self, d: int) -> float | None:
        return 0.0

    def count(self, d: int) -> int:
        return min(d, max(1, int(self.density * d)))


@gradwire.register("heavy", "memory", example="heavy(mine(density=0.1), beta=0.5)")
@dataclass(frozen=True)
class Heavy:
    """Exchange a sum of the vectors so far, in which older ones fade."""

    inner: gradwire.Exchange
    beta: float = 0.5

    def init(self, layout, dtype=torch.float32, device="cpu", batch_shape=()) -> gradwire.State:
        v = torch.zeros((*batch_shape, layout.d), dtype=dtype, device=device)
        return {"v": v, "inner": self.inner.init(layout, dtype, device, batch_shape)}

    async def __call__(self, x: Tensor, state: gradwire.State, turn: gradwire.Turn) -> gradwire.Sent:
        state["v"].mul_(self.beta).add_(x)
        return await self.inner(state["v"], state["inner"], turn)

    def omega(self, d: int) -> float | None:
        return None

    def delta(self, d: int) -> float | None:
        return None
'''


def install(folder: Path, module: str, text: str = PARTS) -> None:
    """Make a module importable from this folder, with an entry point in the group gradwire.parts."""
    (folder / f"{module}.py").write_text(text)
    about = folder / f"{module}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[gradwire.parts]\n{module} = {module}\n")
