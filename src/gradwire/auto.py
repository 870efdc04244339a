"""`attach(ddp, "auto")`: average densely, measure, and compress from then on only if that is predicted to pay.

In the first steps DDP averages without a hook, while `advice.Watch` measures the steps. At the end of one backward pass
all ranks time the link, rehearse the candidates on this step's gradients, and make one common decision: either DDP
stays as it is, at its own speed, or the chosen exchange's hook is registered from the next step on.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast, overload

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gradwire import kernels
from gradwire.advice.crowd import neighbour
from gradwire.advice.doors import through_ddp
from gradwire.advice.link import KINDS, probe
from gradwire.advice.pace import Pace, Watch, trained
from gradwire.advice.rounds import EXCHANGE, LocalRound, local_rounds
from gradwire.advice.survey import agreed, agreed_rounds, mean, sound, survey
from gradwire.advice.verdict import CANDIDATES, DENSE, Method, Verdict, judge, predicted
from gradwire.advice.work import dense
from gradwire.checkpoint import modern, pack
from gradwire.doors import Hook
from gradwire.doors import attach as open_door
from gradwire.doors.arguments import as_seed, as_unit_bytes, check_scaling
from gradwire.doors.counters import Log, one_line
from gradwire.doors.group import Group
from gradwire.doors.uncompiled import uncompiled
from gradwire.engine import Reduce, Scaler
from gradwire.engine.session import COMMON_TERMS
from gradwire.exchange import Exchange
from gradwire.spec import parse
from gradwire.transport.group import agree, gather_text, own_group
from gradwire.transport.ledger import Ledger
from gradwire.transport.process import Process

log = logging.getLogger("gradwire")

AUTO = "auto"
SHORT = CANDIDATES[:3]
"""Default candidates. Kept short because the first steps block while they are rehearsed."""


@overload
def attach(  # pyright: ignore[reportOverlappingOverload] - "auto" is a str, and no other str is
    model: nn.Module,
    exchange: Literal["auto"],
    seed: int = 0,
    bucket_mb: float | None = None,
    scaler: Scaler | None = None,
    lr: Callable[[], float] | None = None,
    candidates: Sequence[str] | None = None,
) -> Auto: ...
@overload
def attach(
    model: nn.Module,
    exchange: Exchange | str,
    seed: int = 0,
    bucket_mb: float | None = None,
    scaler: Scaler | None = None,
    lr: Callable[[], float] | None = None,
    candidates: Sequence[str] | None = None,
    group: Group | None = None,
    find_unused_parameters: bool = False,
    reduce: Reduce = "mean",
) -> Hook: ...
def attach(
    model: nn.Module,
    exchange: Exchange | str,
    seed: int = 0,
    bucket_mb: float | None = None,
    scaler: Scaler | None = None,
    lr: Callable[[], float] | None = None,
    candidates: Sequence[str] | None = None,
    group: Group | None = None,
    find_unused_parameters: bool = False,
    reduce: Reduce = "mean",
) -> Hook | Auto:
    """Average a model's gradients through an exchange. Every rank calls it, with the same arguments.

    A model wrapped in DistributedDataParallel averages in its usual buckets, during backward. In any other module,
    `param.grad` holds means when `backward` returns, or, if some parameters were unused, when `optimizer.step` begins;
    all ranks start from the parameters and buffers of the group's rank 0. Such a module may be sharded by FSDP2 or
    tensor parallelism: `group` then consists of ranks of different islands that hold the same shards, and each rank
    exchanges its own shards.

    Args:
        model: a DDP model or any other module, before its first backward pass.
        exchange: an exchange or its spec, such as "ef(deft(density=0.01))"; or "auto", which measures the first steps
            of a DDP model and then decides whether to compress at all.
        seed: the seed of all randomness in the exchange.
        bucket_mb: megabytes (2^20 bytes) of gradients that are exchanged together. The default is DDP's own
            bucket_cap_mb, or 25 for a module without DDP. Smaller units overlap more of the communication with
            backward; `float("inf")` exchanges the whole model at once, as in the DEFT paper.
        scaler: the GradScaler, if one is used; memories then hold unscaled values.
        lr: returns the learning rate of the current step, for memories that keep it, such as
            `lambda: optimizer.param_groups[0]["lr"]`.
        candidates: the specs among which "auto" chooses.
        group: without DDP, the ranks to average over; all ranks by default. A process group, a one-dimensional mesh, or
            the `Members` of a group that torch.distributed does not know.
        find_unused_parameters: without DDP, exchange at the end of every backward pass, even if some parameters have no
            gradient by then, so that clipping sees means. It excludes checkpoints with use_reentrant=True.
        reduce: "mean", or "sum" for the sum over the group, which is the mean times its number of ranks.

    Raises:
        TypeError: an argument is not a module or not an exchange.
        ValueError: the spec is invalid; the model has no trainable parameter, or has a communication hook already; the
            group contains ranks of one island, or has no backend for the parameters' device; the ranks disagree about
            spec, parameters or seed.
        RuntimeError: torch.distributed has no process group yet.
    """
    if isinstance(exchange, str) and exchange.strip().lower() == AUTO:
        ddp = uncompiled(model)
        if not isinstance(ddp, DistributedDataParallel):
            raise TypeError(f"'auto' takes a model wrapped in DistributedDataParallel, got {type(ddp).__name__}")
        if group is not None or find_unused_parameters or reduce != "mean":
            raise ValueError("'auto' leaves group, find_unused_parameters and reduce to DDP; give none of them")
        return Auto(ddp, SHORT if candidates is None else candidates, seed, bucket_mb, scaler, lr)
    if candidates is not None:
        raise ValueError(f"candidates are for 'auto', got them with {exchange}")
    unused = find_unused_parameters
    return open_door(model, exchange, seed, bucket_mb, scaler, lr, group, find_unused_parameters=unused, reduce=reduce)


class Auto:
    """The decision of `attach(ddp, "auto")`, and, once it compresses, the interface of the chosen exchange's hook.

    Attributes:
        choice: None while it measures; then "dense", or the chosen spec. It is the same on all ranks.
        verdict: the predictions, once made; None if a checkpoint has decided.
        local: the predicted cost of local steps, once predictions are made. Local steps do not exchange gradients, so
            they cannot be chosen; if they would pay, the log says so.
        hook: the chosen exchange's hook; None if DDP averages by itself.
    """

    def __init__(
        self,
        ddp: DistributedDataParallel,
        candidates: Sequence[str],
        seed: int,
        bucket_mb: float | None,
        scaler: Scaler | None,
        lr: Callable[[], float] | None,
    ) -> None:
        self.candidates = tuple(candidates)
        named = [repr(parse(spec)) for spec in self.candidates]
        params = trained(ddp)
        if not params:
            raise ValueError("the model has no parameter that requires a gradient")
        self._device = params[0].device
        if self._device.type not in ("cpu", "cuda"):
            raise ValueError(
                f"auto measures gradients on the CPU or on CUDA, these are on {self._device}; name an exchange instead"
            )
        if ddp._comm_hooks:  # pyright: ignore[reportPrivateUsage] - there is no public way to ask
            raise ValueError("this model has a communication hook already")
        check_scaling(scaler, lr)
        self.ddp, self.seed = ddp, as_seed(seed)
        self._arguments = (seed, bucket_mb, scaler, lr)
        self._unit_bytes = ddp.bucket_bytes_cap if bucket_mb is None else as_unit_bytes(bucket_mb)
        self.choice: str | None = None
        self.verdict: Verdict | None = None
        self.local: LocalRound | None = None
        self.hook: Hook | None = None
        self._idle = Ledger()
        self._logs: list[Log] = []
        self._process = Process(own_group(cast(dist.ProcessGroup, ddp.process_group), self._device))
        self._end = weakref.finalize(self, self._process.close)
        agree(self._process, self._device, COMMON_TERMS | {"exchange": f"auto among {named}", "seed": repr(seed)})
        self._watch = Watch(ddp, self._decide, lambda seconds: mean(self._process, seconds, self._device))
        if self._process.size == 1 or not self.candidates:
            self._settle(DENSE)

    # ---- the interface of a hook

    @property
    def exchange(self) -> Exchange | None:
        """The chosen exchange; None if DDP averages by itself."""
        return self.hook.exchange if self.hook else None

    @property
    def ledger(self) -> Ledger:
        """Bytes that the chosen exchange has sent. DDP's own averages are not counted."""
        return self.hook.ledger if self.hook else self._idle

    @property
    def process(self) -> Process:
        """The process group as a transport, with `rank` and `size`."""
        return self.hook.process if self.hook else self._process

    @property
    def part(self) -> tuple[int, int]:
        """(0, 1): DDP's models are not sharded."""
        return 0, 1

    @property
    def seconds(self) -> float:
        """Seconds spent on the chosen exchange."""
        return self.hook.seconds if self.hook else 0.0

    @property
    def step(self) -> int:
        """Steps of the chosen exchange so far."""
        return self.hook.step if self.hook else 0

    @property
    def skipped(self) -> int:
        """Steps of the chosen exchange in which a value was not finite."""
        return self.hook.skipped if self.hook else 0

    def log_to(self, writer: object, every: int = 100) -> None:
        """Write the counters to a TensorBoard, W&B or MLflow writer, once a hook has been chosen; see `Hook.log_to`."""
        self._logs.append(Log(self, trained(self.ddp), writer, every, lambda: self.step))

    def __repr__(self) -> str:
        return one_line(self, f"{self.choice or 'measuring'} of {', '.join(('dense', *self.candidates))}")

    # ---- the decision

    def _decide(self, pace: Pace) -> None:
        """Finish the measurements and choose; all ranks call it at the end of the same backward pass."""
        started = time.perf_counter()
        self.verdict = verdict = self._judge(pace)
        self._settle(verdict.choice)
        if self._process.rank == 0:
            took = time.perf_counter() - started
            words = "gradwire auto: chose %s (%s), decided in %.1f s with %s"
            log.info(words, self.choice, verdict.sentence, took, kernels.loops())
            if self.local is not None and self.local.beats(verdict.of(verdict.choice).seconds):
                log.info("gradwire auto: %s", self.local.sentence)

    def _judge(self, pace: Pace) -> Verdict:
        """Compare every candidate's predicted step with the measured dense one, averaged over the ranks."""
        params, size = trained(self.ddp), self._process.size
        link = probe(self._process, self._device, KINDS)
        gradients = sound({number: param.grad for number, param in enumerate(params)}, params)
        exchanged = through_ddp(self.ddp, gradients, pace, size, self._unit_bytes)
        step = pace.compute + pace.tail
        with neighbour(link.share < 1):
            work = survey(exchanged, self.candidates, self._unit_bytes, self.seed)
            rounds = local_rounds(exchanged.named, exchanged.gradients, step, link, self._unit_bytes, (EXCHANGE,))
        (self.local,) = agreed_rounds(self._process, self._device, rounds)
        traffic = sum(unit.traffic for unit in dense(self.ddp, pace, size))
        others = [predicted(spec, found, pace, link) for spec, found in work.items()]
        return judge(agreed(self._process, self._device, [Method(DENSE, pace.period, traffic), *others]))

    def _settle(self, choice: str) -> None:
        """Stop measuring, and attach the choice from the next step on."""
        self._watch.close()
        if choice != DENSE:
            self.hook = open_door(self.ddp, choice, *self._arguments)
        self.choice = choice
        self._end()

    # ---- checkpoints

    def state_dict(self, *, copy: bool = True) -> dict[str, Any]:
        """Return the chosen hook's state, which a run with a named exchange can load, or one with an empty memory."""
        if self.hook:
            return self.hook.state_dict(copy=copy)
        return pack({}, self.choice or AUTO, self.seed, 0, self._process.rank, self._process.size)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from a `state_dict`: a choice in the checkpoint is made at once, without measuring.

        Every rank calls it, with its own checkpoint or a merged one.

        Raises:
            ValueError: the checkpoint does not fit, its choice is not this run's, or the ranks' checkpoints differ.
        """
        chosen = _chosen(saved)
        if self.choice is None:
            gathered = gather_text(self._process, self._device, chosen)
            if len(set(gathered)) > 1:
                raise ValueError(f"the ranks' checkpoints are of different exchanges: {', '.join(gathered)}")
            if chosen == AUTO:
                return
            self._settle(chosen)
        if self.hook:  # which refuses another exchange's, on all ranks
            self.hook.load_state_dict(saved)
        elif chosen not in (self.choice, AUTO):
            raise ValueError(f"the checkpoint is of {chosen}, this run has chosen {self.choice}")

    def close(self) -> None:
        """Stop measuring, and close the chosen exchange's hook, if there is one."""
        self._watch.close()
        self._end()
        for log in self._logs:
            log.detach()
        if self.hook:
            self.hook.close()


def _chosen(saved: Any) -> str:
    """Return the exchange of a checkpoint, or "nothing", which every rank refuses, if it is not a checkpoint."""
    exchange = cast(dict[str, Any], saved).get("exchange") if isinstance(saved, dict) else None
    return modern(exchange) if isinstance(exchange, str) else "nothing"
