"""`gradwire.local`: what it takes, what it refuses, and how its parts are put together."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import Optimizer

from gradwire.checkpoint import plain
from gradwire.checks import is_whole
from gradwire.doors.alike import start_alike
from gradwire.doors.arguments import as_seed, as_unit_bytes, unit_term
from gradwire.doors.fsdp import reshard, sharded_modules
from gradwire.doors.group import Group, as_group, check_shards
from gradwire.doors.local import Local, Schedule
from gradwire.doors.uncompiled import uncompiled
from gradwire.engine.anchored import CatchUp
from gradwire.engine.rounds import Rounds
from gradwire.engine.shards import part_of
from gradwire.exchange import Exchange
from gradwire.exchange.parts import parts_of
from gradwire.memory.dgc import DGC
from gradwire.memory.ef import EF
from gradwire.memory.iterates import Iterates
from gradwire.memory.momentum import Momentum
from gradwire.outer import Outer
from gradwire.outer.every import Every
from gradwire.outer.nesterov import Nesterov
from gradwire.spec import as_exchange, as_outer
from gradwire.transport.members import Members

log = logging.getLogger("gradwire")

EXCHANGE = "ef(topk(density=0.015625, values='bits2'), decay=0.95)"
"""One value of 64, its sign and size class in two bits; what is not sent is remembered, and fades slowly."""

OUTER = "sgd(lr=1.0, mean='senders')"


def local(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    every: int | Every = 10,
    exchange: Exchange | str = EXCHANGE,
    outer: Outer | str = OUTER,
    group: Group | None = None,
    *,
    delay: int = 0,
    catch_up: CatchUp = "mix",
    fragments: int = 1,
    keep: Literal["device", "cpu"] = "device",
    seed: int = 0,
    bucket_mb: float = 25.0,
) -> Local:
    """Let every rank train by itself, and bring the models together every so many steps. Every rank calls it.

    The training loop stays as it is: no gradient is exchanged, and the optimizer's step post-hook counts. After `every`
    steps x = anchor - parameters goes through the exchange, the outer step moves the anchor by the mean, and all ranks
    go on from there. The optimizer's state stays local. All ranks start from rank 0's parameters and buffers. Real
    buffers (batch normalisation) are averaged at every exchange, others are rank 0's.

    Args:
        model: a module, compiled or not; or a DDP model, or one sharded by FSDP2, whose ranks are one worker of `group`
            (an island). Of a sharded model each rank exchanges its own part.
        optimizer: what trains it; of several the last one counts the steps.
        every: local steps of a round; `Every(10, warmup_steps=200)` for rounds that grow at first.
        exchange: an exchange or its spec.
        outer: an outer step or its spec, such as "nesterov(lr=0.7, momentum=0.9)".
        group: the ranks that exchange, all of them if left out: a process group, a one-dimensional mesh, or the
            `Members` of a group that torch.distributed does not know.
        delay: local steps that go on while an exchange is under way, below `every`. Costs one more copy of the
            parameters.
        catch_up: what becomes of those steps: "mix", halfway between them and the anchor; "add", they stay in full;
            "drop", they are thrown away.
        fragments: parts of the model that are exchanged one after the other, spread over the round.
        keep: "cpu" keeps anchor, memory and outer state in the host's memory, where the exchange is computed then.
        seed: of all randomness in the exchange.
        bucket_mb: megabytes (2^20 bytes) of parameters that are exchanged together.

    Raises:
        TypeError: what is given is no module, no optimizer, no exchange or no outer step.
        ValueError: a bad spec or number; an exchange that is made for gradients; no trainable parameter, or none that
            the optimizer trains; a model that is averaged or sharded over the same ranks; the ranks do not agree.
        RuntimeError: torch.distributed has no process group yet.
    """
    counted = _optimizers(optimizer)[-1]
    exchange, outer = as_exchange(exchange, "local"), as_outer(outer, "local")
    schedule = _schedule(every, delay, catch_up, fragments)
    _check_fit(exchange, outer, schedule)
    _check_keep(keep)
    seed, unit_bytes = as_seed(seed), as_unit_bytes(bucket_mb)
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"local takes a module, bare, wrapped in DistributedDataParallel or sharded, got {type(model).__name__}"
        )
    wrapped = uncompiled(model)
    bare = _inside(wrapped, group) if isinstance(wrapped, DistributedDataParallel) else wrapped
    reshard(bare)
    named = [(plain(name), param) for name, param in bare.named_parameters() if param.requires_grad][::-1]
    _check_tensors(bare, named, _optimizers(optimizer))
    _check_free(named, counted)
    world = as_group(group, "local")
    check_shards(named, world)
    part = part_of(param for _, param in named)
    terms = {name: repr(getattr(schedule, name)) for name in ("every", "delay", "catch_up")}
    persistent = set(bare.state_dict())
    rounds = Rounds(
        named,
        lambda: [buffer for name, buffer in bare.named_buffers() if name in persistent],
        exchange,
        outer,
        world,
        seed=seed,
        unit_bytes=unit_bytes,
        fragments=fragments,
        device=torch.device("cpu") if keep == "cpu" else None,
        contract=unit_term(unit_bytes)
        | terms
        | {"number of fragments": repr(fragments), "part of the model": repr(part)},
    )
    if rounds.process.size == 1:
        log.warning("gradwire.local: there is one rank only, so nothing is exchanged")
    start_alike(bare, rounds.process)
    for unit in rounds.everything():
        unit.start()
    written = partial(reshard, bare) if sharded_modules(bare) else None
    frozen = [(plain(name), param) for name, param in bare.named_parameters() if not param.requires_grad]
    running = Local(rounds, counted, schedule, part, written, frozen)
    _RUNNING.setdefault(counted, weakref.WeakSet()).add(running)
    return running


_RUNNING: weakref.WeakKeyDictionary[Optimizer, weakref.WeakSet[Local]] = weakref.WeakKeyDictionary()
"""By the optimizer that counts them, whose hook keeps them alive."""


def _check_free(named: Sequence[tuple[str, Tensor]], counted: Optimizer) -> None:
    """Refuse parameters that this optimizer brings together already (ValueError): exchanges would undo each other."""
    rounds = [local.engine for local in _RUNNING.get(counted, ()) if not local.engine.session.closed]
    busy = {id(tensor) for each in rounds for unit in each.everything() for tensor in unit.tensors}
    if taken := [name for name, param in named if id(param) in busy]:
        raise ValueError(f"parameter {taken[0]!r} takes local steps with this optimizer already: close those first")


def _optimizers(given: Any) -> list[Optimizer]:
    several = cast(Sequence[object], given if isinstance(given, list | tuple) else [given])
    optimizers = [one for one in several if isinstance(one, Optimizer)]
    if not optimizers or len(optimizers) < len(several):
        raise TypeError(f"local takes a torch optimizer or a list of them, got {given!r}")
    return optimizers


def _schedule(every: int | Every, delay: int, catch_up: CatchUp, fragments: int) -> Schedule:
    """Refuse what makes no schedule (ValueError)."""
    if not isinstance(every, Every) and (not is_whole(every) or every < 1):
        raise ValueError(f"every must be a whole number of steps, at least 1, or Every(...), got {every!r}")
    rounds = every if isinstance(every, Every) else Every(every)
    if not is_whole(delay) or not 0 <= delay < rounds.steps:
        raise ValueError(f"delay must be a whole number of steps from 0 to {rounds.steps - 1}, got {delay!r}")
    if catch_up not in get_args(CatchUp):
        raise ValueError(f"catch_up must be 'add', 'mix' or 'drop', got {catch_up!r}")
    if not is_whole(fragments) or not 1 <= fragments <= rounds.steps:
        raise ValueError(f"fragments must be a whole number from 1 to {rounds.steps}, got {fragments!r}")
    return Schedule(rounds, delay, catch_up)


def _check_fit(exchange: Exchange, outer: Outer, schedule: Schedule) -> None:
    """Refuse what is made for gradients, or makes no sense every step (ValueError)."""
    for part in parts_of(exchange):
        if isinstance(part, DGC | Momentum):
            raise ValueError(
                f"{type(part).__name__} keeps a momentum of gradients; local exchanges differences of models"
            )
        if isinstance(part, Iterates):
            raise ValueError("iterates compresses a model after a gradient step; local exchanges differences of models")
        if isinstance(part, EF) and part.lr_in_memory:
            raise ValueError(
                "lr_in_memory keeps errors in units of a gradient step; differences have those units already"
            )
    if isinstance(outer, Nesterov) and schedule.every == Every(1):
        raise ValueError(f"every=1 with {outer} is a momentum on top of the optimizer's own; use sgd")


def _check_keep(keep: str) -> None:
    if keep not in ("device", "cpu"):
        raise ValueError(f"keep must be 'device' or 'cpu', got {keep!r}")


def _inside(ddp: DistributedDataParallel, group: Group | None) -> nn.Module:
    """The module inside DDP. Refuses one whose gradients are averaged over the same ranks (ValueError)."""
    between = as_group(group, "local")
    if isinstance(between, Members):  # of other programs' ranks
        return cast(nn.Module, ddp.module)
    island = set(dist.get_process_group_ranks(cast(dist.ProcessGroup, ddp.process_group)))
    if len(island & set(dist.get_process_group_ranks(between))) > 1:
        raise ValueError(
            f"this DDP model averages gradients over ranks {sorted(island)} at every step already; give local the bare "
            "module, or a group of ranks of different islands"
        )
    return cast(nn.Module, ddp.module)


def _check_tensors(model: nn.Module, named: Sequence[tuple[str, Tensor]], optimizers: Sequence[Optimizer]) -> None:
    """Refuse a model that cannot be exchanged, or that the optimizers do not train (ValueError)."""
    if odd := [name for name, buffer in model.named_buffers() if buffer.is_complex()]:
        raise ValueError(f"buffer {odd[0]!r} is complex; gradwire averages real numbers only")
    trained = {id(param) for one in optimizers for part in one.param_groups for param in part["params"]}
    if named and not any(id(param) in trained for _, param in named):
        raise ValueError("the optimizer trains no parameter of this model")
