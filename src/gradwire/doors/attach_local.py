"""`gradwire.local`: it checks the arguments and puts the parts of local training together."""

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
from gradwire.doors.arguments import as_seed, as_unit_bytes, check_mode, unit_term
from gradwire.doors.frozen import frozen_parameters
from gradwire.doors.fsdp import reshard, sharded_modules
from gradwire.doors.group import Group, as_group, check_shards
from gradwire.doors.initial import broadcast_initial
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
"""One value of 64 is sent, with sign and magnitude class in two bits; the rest stays in a residual that decays."""

OUTER = "sgd(lr=1.0, mean='senders')"

_RUNNING: weakref.WeakKeyDictionary[Optimizer, weakref.WeakSet[Local]] = weakref.WeakKeyDictionary()
"""Every Local by the optimizer whose steps it counts; the optimizer's hook keeps it alive."""


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
    """Let every rank train by itself, and synchronise the models every `every` steps. Every rank calls it.

    The training loop does not change: no gradient is exchanged, and a post-hook on the optimizer's step counts. After
    `every` steps the exchange averages x = anchor - parameters, the outer step moves the anchor by the mean, and all
    ranks continue from the anchor. The optimizer's state stays local. All ranks start from rank 0's parameters and
    buffers. Floating-point buffers (batch normalisation) are averaged at every exchange; the others become rank 0's.

    Args:
        model: a module, compiled or not; or a DDP model, or one sharded by FSDP2, whose ranks together are one worker
            of `group` (an island). Each rank of a sharded model exchanges its own shards.
        optimizer: the optimizer that trains the model, or a list of optimizers, of which the last counts the steps.
        every: local steps per round; `Every(10, warmup_steps=200)` makes rounds that grow at first.
        exchange: an exchange or its spec.
        outer: an outer step or its spec, such as "nesterov(lr=0.7, momentum=0.9)".
        group: the ranks that exchange; all ranks by default. A process group, a one-dimensional mesh, or the `Members`
            of a group that torch.distributed does not know.
        delay: local steps that are taken during an exchange; less than `every`. Costs one more copy of the parameters.
        catch_up: how those steps count: "mix" puts the parameters halfway between them and the anchor, "add" keeps the
            steps in full, "drop" discards them.
        fragments: parts of the model that are exchanged one after the other, spread over the round.
        keep: "cpu" keeps anchor, memory and outer state in host memory and computes the exchange there.
        seed: the seed of all randomness in the exchange.
        bucket_mb: megabytes (2^20 bytes) of parameters that are exchanged together.

    Raises:
        TypeError: an argument is not a module, optimizer, exchange or outer step.
        ValueError: a spec or number is invalid; the exchange is made for gradients; the model has no trainable
            parameter, or none that the optimizer trains; the model is averaged or sharded over the same ranks already;
            the ranks disagree about the arguments.
        RuntimeError: torch.distributed has no process group yet.
    """
    counted = _optimizers(optimizer)[-1]
    exchange, outer = as_exchange(exchange, "local"), as_outer(outer, "local")
    schedule = _schedule(every, delay, catch_up, fragments)
    _check_fit(exchange, outer, schedule)
    _check_keep(keep)
    seed, unit_bytes = as_seed(seed), as_unit_bytes(bucket_mb)
    check_mode("local")
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
    broadcast_initial(bare, rounds.process)
    for unit in rounds.all_units():
        unit.start()
    written = partial(reshard, bare) if sharded_modules(bare) else None
    running = Local(rounds, counted, schedule, part, written, frozen_parameters(bare))
    _RUNNING.setdefault(counted, weakref.WeakSet()).add(running)
    return running


def _check_free(named: Sequence[tuple[str, Tensor]], counted: Optimizer) -> None:
    """Raise ValueError if a Local of this optimizer exchanges a parameter already: each would undo the other's work."""
    rounds = [local.engine for local in _RUNNING.get(counted, ()) if not local.engine.session.closed]
    busy = {id(tensor) for each in rounds for unit in each.all_units() for tensor in unit.tensors}
    if taken := [name for name, param in named if id(param) in busy]:
        raise ValueError(f"parameter {taken[0]!r} takes local steps with this optimizer already: close those first")


def _optimizers(given: Any) -> list[Optimizer]:
    several = cast(Sequence[object], given if isinstance(given, list | tuple) else [given])
    optimizers = [one for one in several if isinstance(one, Optimizer)]
    if not optimizers or len(optimizers) < len(several):
        raise TypeError(f"local takes a torch optimizer or a list of them, got {given!r}")
    return optimizers


def _schedule(every: int | Every, delay: int, catch_up: CatchUp, fragments: int) -> Schedule:
    """Check and combine the arguments of a schedule (ValueError)."""
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
    """Refuse exchanges that are made for gradients, and Nesterov momentum at every step (ValueError)."""
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
    """Return the module inside DDP. Raises ValueError if DDP averages its gradients over ranks of `group`."""
    between = as_group(group, "local")
    if isinstance(between, Members):  # other programs' ranks, which are in none of this program's groups
        return cast(nn.Module, ddp.module)
    island = set(dist.get_process_group_ranks(cast(dist.ProcessGroup, ddp.process_group)))
    if len(island & set(dist.get_process_group_ranks(between))) > 1:
        raise ValueError(
            f"this DDP model averages gradients over ranks {sorted(island)} at every step already; give local the bare "
            "module, or a group of ranks of different islands"
        )
    return cast(nn.Module, ddp.module)


def _check_tensors(model: nn.Module, named: Sequence[tuple[str, Tensor]], optimizers: Sequence[Optimizer]) -> None:
    """Raise ValueError for a model with complex buffers, or one that the optimizers do not train."""
    if odd := [name for name, buffer in model.named_buffers() if buffer.is_complex()]:
        raise ValueError(f"buffer {odd[0]!r} is complex; gradwire averages real numbers only")
    trained = {id(param) for one in optimizers for part in one.param_groups for param in part["params"]}
    if named and not any(id(param) in trained for _, param in named):
        raise ValueError("the optimizer trains no parameter of this model")
