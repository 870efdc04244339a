"""The DDP door: DistributedDataParallel's communication hook hands buckets to the engine.

    backward fills a bucket -> DDP calls the hook -> the engine averages -> the bucket's future completes

DDP rebuilds its buckets after its first step, and again after a restart; the engine's units never change.
"""

import logging
from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # pyright: ignore[reportPrivateImportUsage]
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from gradwire.checkpoint import plain
from gradwire.doors.arguments import unit_term
from gradwire.doors.frozen import frozen_parameters
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
        # If parameters may be unused, `_deliver` reads all means again after the last unit.
        fused=not ddp.find_unused_parameters,
        reduce=reduce,
        contract=unit_term(unit_bytes) | {"find_unused_parameters": repr(bool(ddp.find_unused_parameters))},
    )
    unsynced = Unsynced(named[0][1], frozen_parameters(cast(nn.Module, ddp.module)))
    params = [param for _, param in named]
    scaling, wasted = Scaling(engine, params), Wasted(engine, params)
    detach = [watch.detach for watch in (unsynced, scaling, wasted)]
    door = _BucketDoor(engine, unsynced, (scaling, wasted), find_unused=bool(ddp.find_unused_parameters))
    try:
        ddp.register_comm_hook(door, _gradwire)
    except RuntimeError as error:
        for end in (engine.close, *detach):
            end()
        raise ValueError(f"this model cannot take a communication hook: {error}") from error
    return Hook(engine, ddp.no_sync, detach)


def trainable(ddp: DistributedDataParallel) -> list[tuple[str, Tensor]]:
    """Return names and parameters that DDP reduces, last registered first: roughly their gradients' arrival order."""
    ignored = cast(set[str], ddp.parameters_to_ignore)
    every = cast(Iterable[tuple[str, Tensor]], ddp.module.named_parameters())
    return [(plain(name), param) for name, param in every if param.requires_grad and name not in ignored][::-1]


class _BucketDoor:
    """The state that DDP passes to the hook, which calls `arrive` once per bucket."""

    def __init__(self, engine: Engine, unsynced: Unsynced, kept: tuple[Scaling, Wasted], *, find_unused: bool) -> None:
        self.engine, self.unsynced, self.find_unused = engine, unsynced, find_unused
        self.kept = kept  # they watch as long as the door lives, whether the caller keeps the hook or not

    def arrive(self, bucket: GradBucket) -> Future[Tensor]:
        """Hand a bucket to the engine and return at once; the future completes with the bucket's buffer."""
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
        """Write every parameter's mean, because DDP does not write `grad` of parameters unused on all ranks.

        Error feedback may still have a residual to apply there.
        """
        for param, flat in self.engine.means():
            # A bucket holds a gradient in its parameter's memory layout, such as channels last.
            mean = flat.as_strided(param.shape, param.stride(), flat.storage_offset())
            if param.grad is not None:
                param.grad.copy_(mean)
            elif bool(mean.any()):
                param.grad = mean.to(param.dtype, copy=True)


def _gradwire(door: _BucketDoor, bucket: GradBucket) -> Future[Tensor]:
    """Pass a bucket to the door. DDP calls this function and checks its signature."""
    return door.arrive(bucket)


def _unwrap(future: Future[Tensor | Exception]) -> Tensor:
    """Return the bucket's buffer, or raise the engine's failure in backward."""
    result = future.value()
    if isinstance(result, Exception):
        raise RuntimeError(f"gradwire's exchange failed: {result}") from result
    return result


def _after_backward(deliver: Callable[[], None]) -> None:
    """Call `deliver` when DDP has finished.

    The outer callback is queued before DDP's own, so it queues another one, which runs after DDP's.
    """
    engine = torch.autograd.Variable._execution_engine  # pyright: ignore[reportPrivateUsage] - as DDP does
    engine.queue_callback(lambda: engine.queue_callback(deliver))
