"""The hook: gradwire inside DistributedDataParallel.

    hook = gradwire.attach(ddp_model, "ef(deft(density=0.01))")

A gradient's journey:

    backward fills a DDP bucket -> DDP calls the hook -> the hook's thread copies the gradients into *units* -> a full
    unit runs the exchange -> the mean is copied back -> the bucket's future completes -> DDP goes on to the optimizer

A unit is gradwire's own bucket: parameters in reverse order of registration, up to a number of bytes, of one dtype and
device. DDP fills its buckets otherwise before and after its first step, and differently again after a restart; units
stay what they are, so state stays where it is and a resumed run is bit-equal.

Order is a promise: one thread per hook takes buckets in the order in which DDP hands them over, which is the same on
all ranks, and runs units to their end one after the other on a process group of its own. Backward goes on meanwhile.
"""

import atexit
import logging
import operator
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import GradBucket  # pyright: ignore[reportPrivateImportUsage]
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from gradwire import checkpoint, kernels
from gradwire.exchange import Exchange, divide_budget
from gradwire.layout import Layout
from gradwire.memory.guard import Guard
from gradwire.spec import parse
from gradwire.transport.group import agree, compare, own_group
from gradwire.transport.ledger import Ledger
from gradwire.transport.process import Process
from gradwire.units import Unit, make_units

log = logging.getLogger("gradwire")


class Scaler(Protocol):
    """The part of torch.amp.GradScaler that the hook reads."""

    def get_scale(self) -> float:
        """Return the factor that the loss was multiplied by."""
        ...


def attach(
    ddp: DistributedDataParallel,
    exchange: Exchange | str,
    seed: int = 0,
    bucket_mb: float | None = None,
    scaler: Scaler | None = None,
    lr: Callable[[], float] | None = None,
) -> "Hook":
    """Do what `gradwire.attach` (auto.py) says, but for "auto", which is not for the hook to decide."""
    if not isinstance(ddp, DistributedDataParallel):
        raise TypeError(f"attach takes a model wrapped in DistributedDataParallel, got {type(ddp).__name__}")
    exchange = parse(exchange) if isinstance(exchange, str) else exchange
    if not isinstance(exchange, Exchange):
        raise TypeError(f"attach takes an exchange or its spec, got {exchange!r}")
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TypeError(f"a seed is a whole number, got {seed!r}")
    if bucket_mb is not None and not bucket_mb > 0:
        raise ValueError(f"bucket_mb must be positive, got {bucket_mb}")
    unit_bytes = ddp.bucket_bytes_cap if bucket_mb is None else bucket_mb * 2**20
    hook = Hook(ddp, exchange, operator.index(seed), unit_bytes, scaler, lr)
    try:
        ddp.register_comm_hook(hook, _gradwire)
    except RuntimeError as error:
        hook.close()
        raise ValueError(f"this model cannot take a communication hook: {error}") from error
    return hook


def _gradwire(hook: "Hook", bucket: GradBucket) -> Future[Tensor]:
    """The function that DDP calls, with the signature that it checks."""
    return hook.arrive(bucket)


@dataclass
class Arrival:
    """A DDP bucket that waits for its means."""

    gradients: list[tuple[int, Tensor]]
    buffer: Tensor
    future: Future[Tensor | Exception]
    ready: Any  # torch.cuda.Event, if the bucket is on a GPU
    first: bool
    last: bool


class Hook:
    """What `attach` returns: the ledger, the state, the end.

    Attributes:
        exchange: what averages the gradients, without the guard around it.
        ledger: bytes this rank has sent, per kind of ask, and the seconds it waited for the network.
        seconds: time spent on gradients so far, the network included, while backward went on or waited.
        step: gradient synchronisations so far; backward passes under `no_sync` do not count.
        skipped: of those, how many held a value that was not finite and left the memory untouched.
    """

    def __init__(
        self,
        ddp: DistributedDataParallel,
        exchange: Exchange,
        seed: int,
        unit_bytes: float,
        scaler: Scaler | None,
        lr: Callable[[], float] | None,
    ) -> None:
        self.exchange, self.seed, self.scaler, self.lr = exchange, seed, scaler, lr
        self.step, self.skipped, self.seconds = 0, 0, 0.0
        self._guarded = Guard(exchange)
        self._units = make_units(ddp, self._guarded, unit_bytes, widened=scaler is not None)
        self._home = {param: unit for unit in self._units for param in unit.names}
        self._find_unused = bool(ddp.find_unused_parameters)
        self._parameters = [(param, self._home[id(param)]) for param in ddp.parameters() if id(param) in self._home]
        self._waiting: list[Arrival] = []
        self._done: set[int] = set()
        self._finite, self._scale = True, 1.0
        self._budgets: dict[Layout, float] = {}
        self._failure: Exception | None = None
        device = self._units[0].buffer.device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if device.type == "cpu" and max(unit.layout.d for unit in self._units) >= kernels.LONG:
            kernels.warm_up()  # here, or the first step would wait for it
        self.ledger = Ledger()
        self.process = Process(own_group(cast(dist.ProcessGroup, ddp.process_group), device), self.ledger)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gradwire")
        self._closed = False
        atexit.register(_close, weakref.ref(self))
        try:
            agree(self.process, device, self._contract())
        except ValueError:
            self.close()
            raise
        log.info("gradwire: %s over %d ranks, %d units", exchange, self.process.size, len(self._units))

    @property
    def layouts(self) -> list[Layout]:
        """What is exchanged together: one layout a unit, in the order in which units go to the network."""
        return [unit.layout for unit in self._units]

    # ---- what DDP sees

    def arrive(self, bucket: GradBucket) -> Future[Tensor]:
        """Take a bucket from DDP's thread and return at once; the future completes with the bucket's buffer."""
        if self._closed:
            raise RuntimeError("this model's gradwire hook is closed: its gradients can no longer be averaged")
        if self._failure is not None:
            raise RuntimeError(f"gradwire cannot go on after an earlier failure: {self._failure}") from self._failure
        buffer = bucket.buffer()
        if buffer.is_sparse:
            raise RuntimeError("gradwire exchanges dense gradients; build the embedding with sparse=False")
        if bucket.index() == 0 and self._find_unused:
            _after_backward(self._deliver)
        gradients = [(id(param), grad) for param, grad in zip(bucket.parameters(), bucket.gradients(), strict=True)]
        on_gpu = self._stream is not None
        future: Future[Tensor | Exception] = Future(devices=[buffer.device]) if on_gpu else Future()
        ready = torch.cuda.current_stream(buffer.device).record_event() if on_gpu else None
        arrival = Arrival(gradients, buffer, future, ready, first=bucket.index() == 0, last=bucket.is_last())
        self._thread.submit(self._advance, arrival)
        return future.then(_unwrap)

    # ---- the thread

    def _advance(self, arrival: Arrival) -> None:
        """Fill units from a bucket, exchange those that are full, complete the buckets that have all their means."""
        if self._failure is not None:
            arrival.future.set_result(self._failure)
            return
        started = time.perf_counter()
        self._waiting.append(arrival)
        with self._lane(arrival):
            try:
                if arrival.first:
                    self._begin()
                self._fill(arrival)
                self._exchange()
                if arrival.last:
                    self._check_complete()
                self.seconds += time.perf_counter() - started
                for served in [waiting for waiting in self._waiting if self._served(waiting)]:
                    self._waiting.remove(served)
                    served.future.set_result(served.buffer)
            except Exception as failure:
                log.exception("gradwire: the exchange failed")
                self._failure = failure
                for waiting in self._waiting:
                    waiting.future.set_result(failure)
                self._waiting.clear()

    def _lane(self, arrival: Arrival) -> AbstractContextManager[Any]:
        """On CUDA work on the hook's own stream, behind the kernels that filled the bucket."""
        if self._stream is None or arrival.ready is None:
            return nullcontext()
        self._stream.wait_event(arrival.ready)
        return torch.cuda.stream(self._stream)

    def _begin(self) -> None:
        """The first bucket of a backward pass: whatever an aborted pass has left is void."""
        for stale in self._waiting[:-1]:
            stale.future.set_result(RuntimeError("this backward pass was cut short, and another one has begun"))
        del self._waiting[:-1]
        self._roll_back()
        self._done.clear()
        self._finite = True
        self._scale = self.scaler.get_scale() if self.scaler is not None else 1.0
        self._budgets = divide_budget({unit.layout: unit.state for unit in self._units})
        for unit in self._units:
            unit.begin()

    def _roll_back(self) -> None:
        """Undo a step of which only some units are done."""
        if len(self._done) < len(self._units):
            for number in self._done:
                self._units[number].restore()
            self._done.clear()

    def _check_complete(self) -> None:
        """Refuse a backward pass that ends without some parameters: their units would wait for ever."""
        if lost := [unit.names[param] for unit in self._units for param in unit.missing]:
            raise RuntimeError(
                f"DDP does not reduce {', '.join(sorted(lost))}: what was frozen when DDP wrapped the model cannot be "
                "trainable when gradwire is attached; wrap the model again"
            )

    def _fill(self, arrival: Arrival) -> None:
        """Tell units of their gradients."""
        for param, gradient in arrival.gradients:
            if param not in self._home:
                raise RuntimeError("a parameter was frozen when gradwire was attached, not when DDP wrapped the model")
            self._home[param].fill(param, gradient)

    def _exchange(self) -> None:
        """Run all units that are full and not done, in their own order, which is every rank's."""
        for number, unit in enumerate(self._units):
            if unit.missing or number in self._done:
                continue
            self._average(unit)
            self._done.add(number)
        if len(self._done) == len(self._units):
            self._end()

    def _average(self, unit: Unit) -> None:
        """Replace a unit's gradients by their mean over the ranks."""
        lr = None if self.lr is None else self.lr()
        process, budget = self.process, self._budgets[unit.layout]
        turn = unit.turn(process.rank, process.size, self.step, self.seed, lr, budget, self._scale)
        sent = process.run(self._guarded(unit.buffer, unit.state, turn))
        self._finite &= unit.finish(sent.mean, self._scale) and sent.finite

    def _end(self) -> None:
        """All units are done: a step that was not finite anywhere leaves no trace in any memory."""
        if not self._finite:
            self.skipped += 1
            for unit in self._units:
                unit.restore()
        self.step += 1

    def _served(self, arrival: Arrival) -> bool:
        """Tell whether all units of a bucket are done, so that it holds its means."""
        units = {id(self._home[param]): self._home[param] for param, _ in arrival.gradients}
        return {number for number, unit in enumerate(self._units) if id(unit) in units} <= self._done

    def _deliver(self) -> None:
        """Give every parameter its mean, also those that nobody used in this step, which DDP leaves alone.

        A memory may still owe them something, and forgets what it has sent.
        """
        for param, unit in self._parameters:
            # A bucket holds a gradient in the order in which its parameter lies in memory (channels last, for one).
            laid = unit.views(unit.mean)[id(param)]
            mean = laid.as_strided(param.shape, param.stride(), laid.storage_offset())
            if param.grad is not None:
                param.grad.copy_(mean)
            elif bool(mean.any()):
                param.grad = mean.to(param.dtype, copy=True)

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Copy the hook's state: every tensor by the name of its parameter. Each rank saves its own.

        Holds tensors, numbers and strings only, so `torch.load(..., weights_only=True)` reads it. Call it between
        steps, as the optimizer's. After a backward pass that was cut short it is the state before that pass; after a
        failure of the exchange there is none, and it raises RuntimeError.
        """
        return self._snapshot() if self._closed else self._thread.submit(self._snapshot).result()

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken: same exchange, parameters, units, rank and ranks give equal bits.

        Every rank calls it, with its own checkpoint or with a merged one.

        Raises:
            ValueError: one sentence saying what does not fit, or that another rank has refused, or that the ranks'
                checkpoints are of different steps, seeds or runs; then nothing has been changed on any rank.
        """
        refusal: ValueError | None = None
        try:
            checkpoint.check(saved, self.state_dict())
        except ValueError as error:
            refusal = error
        words = "refused" if refusal else checkpoint.moment(saved)
        heard = compare(self.process, self._units[0].buffer.device, words)
        if refusal:
            raise refusal
        if heard is not None:
            raise ValueError(f"rank {heard} has refused its checkpoint, or has one of another step, seed or run")
        for unit in self._units:
            checkpoint.restore_(unit.state, unit.layout, saved["memory"])
        self.seed, self.step = saved["seed"], saved["step"]

    def _snapshot(self) -> dict[str, Any]:
        if self._failure is not None:
            raise RuntimeError(f"the exchange has failed and its memory with it: {self._failure}") from self._failure
        self._roll_back()
        memory: dict[str, dict[str, Tensor]] = {}
        for unit in self._units:
            memory.update(checkpoint.by_name(unit.state, unit.layout))
        rank, size = self.process.rank, self.process.size
        return checkpoint.pack(memory, repr(self.exchange), self.seed, self.step, rank, size)

    def close(self) -> None:
        """End the thread and the process group. Call it before `destroy_process_group`; the program's end does it too.

        The counters and `state_dict` stay readable; a backward pass that would need the hook raises RuntimeError.
        """
        if not self._closed:
            self._closed = True
            self._thread.shutdown(wait=True)
            self.process.close()

    def _contract(self) -> dict[str, str]:
        """What all ranks must agree about."""
        return {
            "exchange": repr(self.exchange),
            "parameters": repr([(unit.layout.digest, unit.buffer.dtype) for unit in self._units]),
            "seed": repr(self.seed),
            "use of a scaler": repr(self.scaler is not None),
            "use of lr": repr(self.lr is not None),
        }


def _close(hook: weakref.ref[Hook]) -> None:
    """Close a hook that is still open when the program ends."""
    if (still_there := hook()) is not None:
        still_there.close()
        still_there.process.close(final=True)


def _unwrap(future: Future[Tensor | Exception]) -> Tensor:
    """Make a failure of the thread a failure of backward."""
    result = future.value()
    if isinstance(result, Exception):
        raise RuntimeError(f"gradwire's exchange failed: {result}") from result
    return result


def _after_backward(deliver: Callable[[], None]) -> None:
    """Call when DDP has finished: from a callback at the end of backward that comes before DDP's, one behind it."""
    engine = torch.autograd.Variable._execution_engine  # pyright: ignore[reportPrivateUsage] - as DDP does
    engine.queue_callback(lambda: engine.queue_callback(deliver))
