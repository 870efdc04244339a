"""Doors: which tensors a door exchanges, which gradients each waits for, and what other traffic the links carry.

ddp      whole parameters; a gradient is ready with its DDP bucket, a unit with all buckets that hold a part of it
module   whole parameters, each ready with its own gradient; units leave in the expected order of arrival
sharded  this rank's FSDP2 shards, exchanged between islands as by the module door

Inside an island of s ranks, FSDP2 itself gathers parameters twice and reduces gradients once, which puts
3 (s - 1) / s of the model's bytes on a rank's link. Prefetching overlaps this with computing; if it takes longer than
computing, the step waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gradwire.advice.link import Link
from gradwire.advice.pace import Pace, buckets, trained
from gradwire.advice.timeline import Part
from gradwire.doors.ddp import trainable
from gradwire.doors.module import in_order_of_arrival

DOORS = ("ddp", "module", "sharded")


@dataclass(frozen=True)
class Exchanged:
    """The tensors that a door exchanges.

    named: tensors in the order in which units are cut. gradients: one for each tensor. waits: for each tensor, the
    parameters (by DDP's index) whose gradients must be ready before it can be exchanged; tensors with the same entry
    lie in one bucket. size: number of workers that average. in_order: a unit also waits for all units before it.
    """

    named: Sequence[tuple[str, Tensor]]
    gradients: Sequence[Tensor]
    waits: Sequence[tuple[int, ...]]
    size: int
    in_order: bool = False


def through_ddp(
    ddp: DistributedDataParallel, gradients: Sequence[Tensor], pace: Pace, size: int, unit_bytes: float
) -> Exchanged:
    """The tensors of DDP's door. `gradients` has one entry for each parameter that DDP reduces, by DDP's index."""
    number = _numbers(ddp)
    sizes = [param.nbytes for param in trained(ddp)]
    bucket_of = {one: tuple(bucket) for bucket in buckets(sizes, pace.order, unit_bytes) for one in bucket}
    named = trainable(ddp)
    own = [number[id(param)] for _, param in named]
    return Exchanged(named, [gradients[i] for i in own], [bucket_of[i] for i in own], size)


def through_module(ddp: DistributedDataParallel, gradients: Sequence[Tensor], size: int) -> Exchanged:
    """The tensors of the module door, for DDP's module as if it were not wrapped."""
    number = _numbers(ddp)
    named = in_order_of_arrival(cast(nn.Module, ddp.module))
    own = [number[id(param)] for _, param in named]
    return Exchanged(named, [gradients[i] for i in own], [(i,) for i in own], size, in_order=True)


def through_shards(whole: Exchanged, rank: int, island: int) -> Exchanged:
    """The module door's tensors, if FSDP2 cuts each into `island` shards: the shards of one rank."""
    named = [(name, shard_of(param, rank % island, island)) for name, param in whole.named]
    gradients = [shard_of(gradient, rank % island, island) for gradient in whole.gradients]
    return replace(whole, named=named, gradients=gradients, size=whole.size // island)


def shard_of(tensor: Tensor, place: int, island: int) -> Tensor:
    """The rows of a tensor, possibly none, that FSDP2 gives to the rank at position `place` of an island."""
    rows = tensor.detach().reshape(tensor.shape or (1,))
    longest = -(-len(rows) // island)
    return rows[min(place * longest, len(rows)) : (place + 1) * longest]


def own_traffic(nbytes: float, island: int) -> float:
    """Bytes a step that FSDP2 itself puts on a rank's link inside an island, for a model of `nbytes` bytes."""
    return 3 * (island - 1) / island * nbytes


def own_part(nbytes: float, inside: Link, unit_bytes: float) -> Part:
    """Seconds of FSDP2's own collectives in a step, if it shards in groups of `unit_bytes`.

    A reduce-scatter is taken as half an all-reduce.
    """
    groups = max(1, math.ceil(nbytes / unit_bytes))
    gathered = own_traffic(nbytes, inside.size) / 3 / groups
    gather, reduce = inside.part("AllGather", gathered), inside.part("AllReduce", 2 * gathered)
    return Part(groups * (2 * gather.cpu + reduce.cpu / 2), groups * (2 * gather.wait + reduce.wait / 2))


def beside(pace: Pace, own: Part, share: float) -> Pace:
    """The pace of a model whose own collectives, such as FSDP2's, run beside its computing.

    `share` is the part of its speed at which each lane runs while both need the core; `own` then delays computing.
    """
    stretched = max(pace.compute + own.cpu * (1 / share - 1), own.cpu + own.wait)
    factor = stretched / pace.compute
    return replace(
        pace,
        compute=stretched,
        ready=tuple(factor * at for at in pace.ready),
        period=pace.period + stretched - pace.compute,
    )


def _numbers(ddp: DistributedDataParallel) -> dict[int, int]:
    """DDP's index of each parameter, by the parameter's id."""
    return {id(param): number for number, param in enumerate(trained(ddp))}
