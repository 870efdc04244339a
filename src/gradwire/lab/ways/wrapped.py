"""A model that is trained in one of the ways of `lab.ways`, all with the same counters."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import Optimizer

from gradwire import Auto, Hook, attach
from gradwire.lab.ways import DENSE, NONE, is_torch, local_steps
from gradwire.lab.ways.local_steps import Apart
from gradwire.lab.ways.torchs import Plain, on_a_ring, wrap


class Comm(Protocol):
    """A model in training, and counters of one rank since the start."""

    @property
    def model(self) -> nn.Module:
        """What forward is called on."""
        ...

    @property
    def period(self) -> int:
        """Steps after which all ranks hold the same model again."""
        ...

    def averaging(self) -> AbstractContextManager[None]:
        """Where forward and backward belong."""
        ...

    def quiet(self) -> AbstractContextManager[None]:
        """Where forward and backward send nothing, whatever the way."""
        ...

    def stepped(self) -> None:
        """Note that a backward pass is done."""
        ...

    def finish(self) -> None:
        """Let all ranks hold the same model, if they do not."""
        ...

    def sent(self) -> float:
        """Bytes put on this rank's link, counted from tensors."""
        ...

    def selecting(self) -> float:
        """Seconds spent on what is sent, outside the network."""
        ...

    def optimizing(self) -> float:
        """Seconds spent on averaging inside `optimizer.step`."""
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
    model: nn.Module,
    optimizer: Optimizer,
    way: str,
    seed: int = 0,
    bucket_mb: float | None = None,
    *,
    rehearsed: bool = False,
) -> Comm:
    """Let a model be trained in a way, gradients averaged behind each one's own arguments of DDP.

    bucket_mb: of gradwire's ways, DDP's own 25 MB if left out; torch's dense and fp16 keep that, PowerSGD has one
    bucket. rehearsed: leave out the network in the dense first steps of PowerSGD; for a benchmark, which does not time
    them: on a slow link they take longer than all that follow.
    """
    if way == NONE or is_torch(way):
        return Plain(model, way, rehearsed)
    if (steps := local_steps(way)) is not None:
        return Apart(model, optimizer, steps, seed, **({} if bucket_mb is None else {"bucket_mb": bucket_mb}))
    cap = {} if bucket_mb is None or math.isinf(bucket_mb) else {"bucket_cap_mb": bucket_mb}
    ddp = wrap(model, **cap)
    return Compressed(ddp, attach(ddp, way, seed=seed, bucket_mb=bucket_mb), way)


class Compressed:
    """gradwire's hook, or auto's: DDP averages densely until auto chooses, and for good if it chooses dense."""

    period = 1

    def __init__(self, ddp: DistributedDataParallel, hook: Hook | Auto, way: str) -> None:
        self.model, self.hook, self.way, self.dense_bytes = ddp, hook, way, 0.0
        self.state_dict, self.load_state_dict, self.close = hook.state_dict, hook.load_state_dict, hook.close

    def averaging(self) -> AbstractContextManager[None]:
        """Nothing special."""
        return nullcontext()

    def quiet(self) -> AbstractContextManager[None]:
        """Without averaging."""
        return self.model.no_sync()

    def stepped(self) -> None:
        """Count what DDP has averaged itself; the hook counts the rest."""
        if self.choice() in (None, DENSE):
            self.dense_bytes += on_a_ring(sum(int(p.nbytes) for p in self.model.parameters() if p.requires_grad))

    def finish(self) -> None:
        """Nothing to end: all ranks hold the same model after every step."""

    def sent(self) -> float:
        """The ledger's traffic, and what DDP has averaged alone."""
        return self.hook.ledger.traffic + self.dense_bytes

    def selecting(self) -> float:
        """The hook's seconds without the ledger's."""
        return self.hook.seconds - self.hook.ledger.seconds

    def optimizing(self) -> float:
        """Zero: gradients are averaged before."""
        return 0.0

    def collectives(self) -> list[float]:
        """The ledger's log, which begins with the first call."""
        taken, self.hook.ledger.log = self.hook.ledger.log or [], []
        return taken

    def choice(self) -> str | None:
        """The spec, or what auto has chosen."""
        return self.hook.choice if isinstance(self.hook, Auto) else self.way
