"""The DDP door: DistributedDataParallel's communication hook fills units.

    backward fills a bucket -> DDP calls the hook -> the engine averages -> the bucket's future completes

DDP fills its buckets otherwise before and after its first step, and differently again after a restart; the engine's
units stay what they are.
"""

import logging
from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import GradBucket  # pyright: ignore[reportPrivateImportUsage]
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from gradwire.checkpoint import plain
from gradwire.doors.arguments import unit_term
from gradwire.doors.hook import Hook
from gradwire.doors.scaling import Scaling
from gradwire.doors.unsynced import Unsynced
from gradwire.doors.wasted import Wasted
from gradwire.engine import Engine, Reduce, Scaler
from gradwire.exchange import Exchange

log = logging.getLogger("gradwire")


def attach_ddp(
    ddp: DistributedDataParallel,
    exchange: Exchange,
    seed: int,
    unit_bytes: float | None,
    scaler: Scaler | None,
    lr: Callable[[], float] | None,
    reduce: Reduce,
) -> Hook:
    """Let DDP average its gradients through an exchange; see `gradwire.attach`."""
    if ddp._use_python_reducer:  # pyright: ignore[reportPrivateUsage] - there is no public way to ask
        raise ValueError(
            "torch._dynamo.config.optimize_ddp is 'python_reducer', which hands a hook no buckets; set it to "
            "'ddp_optimizer' before DistributedDataParallel is built"
        )
    named, unit_bytes = trainable(ddp), ddp.bucket_bytes_cap if unit_bytes is None else unit_bytes
    engine = Engine(
        named,
        exchange,
        cast(dist.ProcessGroup, ddp.process_group),
        seed=seed,
        unit_bytes=unit_bytes,
        scaler=scaler,
        lr=lr,
        # Where parameters may be unused the means are read once more after the last unit.
        fused=not ddp.find_unused_parameters,
        reduce=reduce,
        contract=unit_term(unit_bytes) | {"find_unused_parameters": repr(bool(ddp.find_unused_parameters))},
    )
    unsynced = Unsynced(named[0][1])
    params = [param for _, param in named]
    scaling, wasted = Scaling(engine, params), Wasted(engine, params)
    door = _BucketDoor(engine, unsynced, (scaling, wasted), find_unused=bool(ddp.find_unused_parameters))
    try:
        ddp.register_comm_hook(door, _gradwire)
    except RuntimeError as error:
        engine.close()
        unsynced.detach()
        scaling.detach()
        wasted.detach()
        raise ValueError(f"this model cannot take a communication hook: {error}") from error
    return Hook(engine, ddp.no_sync, [unsynced.detach, scaling.detach, wasted.detach])


def trainable(ddp: DistributedDataParallel) -> list[tuple[str, Tensor]]:
    """Names and parameters that DDP reduces, the last registered first: about the order in which gradients arrive."""
    ignored = cast(set[str], ddp.parameters_to_ignore)
    every = cast(Iterable[tuple[str, Tensor]], ddp.module.named_parameters())
    return [(plain(name), param) for name, param in every if param.requires_grad and name not in ignored][::-1]


class _BucketDoor:
    """What DDP is given: it calls `arrive` once a bucket."""

    def __init__(self, engine: Engine, unsynced: Unsynced, kept: tuple[Scaling, Wasted], *, find_unused: bool) -> None:
        self.engine, self.unsynced, self.find_unused = engine, unsynced, find_unused
        self.kept = kept  # they watch as long as the door lives, whether the caller keeps the hook or not

    def arrive(self, bucket: GradBucket) -> Future[Tensor]:
        """Take a bucket from DDP's thread and return at once; the future completes with the bucket's buffer."""
        buffer = bucket.buffer()
        if buffer.is_sparse:
            raise RuntimeError("gradwire exchanges dense gradients; build the embedding with sparse=False")
        if bucket.index() == 0 and self.find_unused:
            _after_backward(self._deliver)
        if bucket.is_last():
            self.unsynced.exchanged()
        future: Future[Tensor | Exception] = Future(devices=[buffer.device]) if buffer.is_cuda else Future()
        gradients = [(id(param), grad) for param, grad in zip(bucket.parameters(), bucket.gradients(), strict=True)]
        self.engine.contribute(
            gradients,
            lambda failure: future.set_result(buffer if failure is None else failure),
            first=bucket.index() == 0,
            last=bucket.is_last(),
        )
        return future.then(_unwrap)

    def _deliver(self) -> None:
        """Write every parameter's mean, also those unused on all ranks in this step, whose `grad` DDP leaves alone.

        Error feedback may still have a residual to apply there.
        """
        for param, laid in self.engine.means():
            # A bucket holds a gradient in the order in which its parameter lies in memory (channels last, for one).
            mean = laid.as_strided(param.shape, param.stride(), laid.storage_offset())
            if param.grad is not None:
                param.grad.copy_(mean)
            elif bool(mean.any()):
                param.grad = mean.to(param.dtype, copy=True)


def _gradwire(door: _BucketDoor, bucket: GradBucket) -> Future[Tensor]:
    """The function that DDP calls, with the signature that it checks."""
    return door.arrive(bucket)


def _unwrap(future: Future[Tensor | Exception]) -> Tensor:
    """Make a failure of the engine's thread a failure of backward."""
    result = future.value()
    if isinstance(result, Exception):
        raise RuntimeError(f"gradwire's exchange failed: {result}") from result
    return result


def _after_backward(deliver: Callable[[], None]) -> None:
    """Call when DDP has finished: from a callback at the end of backward that comes before DDP's, one behind it."""
    engine = torch.autograd.Variable._execution_engine  # pyright: ignore[reportPrivateUsage] - as DDP does
    engine.queue_callback(lambda: engine.queue_callback(deliver))
