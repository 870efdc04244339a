"""A model behind DDP that averages its gradients in one of the ways of `lab.ways`, all with the same counters."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gradwire import Auto, Hook, attach
from gradwire.lab.ways import DENSE, NONE, is_torch
from gradwire.lab.ways.torchs import Plain, on_a_ring, wrap


class Comm(Protocol):
    """A wrapped model, and counters of one rank since the start."""

    ddp: DistributedDataParallel

    def averaging(self) -> AbstractContextManager[None]:
        """Where forward and backward belong."""
        ...

    def stepped(self) -> None:
        """Note that a backward pass is done."""
        ...

    def sent(self) -> float:
        """Bytes put on this rank's link, counted from tensors."""
        ...

    def selecting(self) -> float:
        """Seconds spent on gradients outside the network."""
        ...

    def collectives(self) -> list[float]:
        """Take the seconds of every collective since they were last taken, in order; empty for torch's own ways."""
        ...

    def choice(self) -> str | None:
        """The way in use. None while auto has not chosen yet."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        ...

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from a checkpoint; ValueError if it does not fit."""
        ...

    def close(self) -> None:
        """End threads."""
        ...


def average(
    model: nn.Module, way: str, seed: int = 0, bucket_mb: float | None = None, *, rehearsed: bool = False
) -> Comm:
    """Wrap a model so that its gradients are averaged in a way, each behind its own arguments of DDP.

    bucket_mb: of gradwire's ways, DDP's own 25 MB if left out; torch's dense and fp16 keep that, PowerSGD has one
    bucket. rehearsed: leave out the network in the dense first steps of PowerSGD; for a benchmark, which does not time
    them: on a slow link they take longer than all that follow.
    """
    if way == NONE or is_torch(way):
        return Plain(model, way, rehearsed)
    cap = {} if bucket_mb is None or math.isinf(bucket_mb) else {"bucket_cap_mb": bucket_mb}
    ddp = wrap(model, **cap)
    return Compressed(ddp, attach(ddp, way, seed=seed, bucket_mb=bucket_mb), way)


class Compressed:
    """gradwire's hook, or auto's: DDP averages densely until auto chooses, and for good if it chooses dense."""

    def __init__(self, ddp: DistributedDataParallel, hook: Hook | Auto, way: str) -> None:
        self.ddp, self.hook, self.way, self.dense_bytes = ddp, hook, way, 0.0
        self.state_dict, self.load_state_dict, self.close = hook.state_dict, hook.load_state_dict, hook.close

    def averaging(self) -> AbstractContextManager[None]:
        """Nothing special."""
        return nullcontext()

    def stepped(self) -> None:
        """Count what DDP has averaged itself; the hook counts the rest."""
        if self.choice() in (None, DENSE):
            self.dense_bytes += on_a_ring(sum(int(p.nbytes) for p in self.ddp.parameters() if p.requires_grad))

    def sent(self) -> float:
        """The ledger's traffic, and what DDP has averaged alone."""
        return self.hook.ledger.traffic + self.dense_bytes

    def selecting(self) -> float:
        """The hook's seconds without the ledger's."""
        return self.hook.seconds - self.hook.ledger.seconds

    def collectives(self) -> list[float]:
        """The ledger's log, which begins with the first call."""
        taken, self.hook.ledger.log = self.hook.ledger.log or [], []
        return taken

    def choice(self) -> str | None:
        """The spec, or what auto has chosen."""
        return self.hook.choice if isinstance(self.hook, Auto) else self.way
