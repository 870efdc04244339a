"""Doors: which tensors a door exchanges, what each of them waits for, and what is on the links besides.

ddp      whole parameters; one waits for its bucket of DDP's, a unit for all buckets that hold a part of it
module   whole parameters; each is there as soon as its gradient is; units leave in a fixed order, as by arrival
sharded  this rank's shards of FSDP2, exchanged with the other islands as by the module door

FSDP2 itself gathers parameters twice and reduces gradients once inside an island of s ranks: 3 (s - 1) / s of the
model's bytes on a rank's link. That goes on beside computing, by prefetching, and where it takes longer the step waits.
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
    """What goes through a door.

    named: tensors in the order in which units are cut. gradients: one for each. waits: parameters, by DDP's numbers,
    whose gradients must be ready before a tensor's is; tensors that wait for the same lie in one bucket. size: workers
    that average. in_order: a unit also waits for those before it.
    """

    named: Sequence[tuple[str, Tensor]]
    gradients: Sequence[Tensor]
    waits: Sequence[tuple[int, ...]]
    size: int
    in_order: bool = False


def through_ddp(
    ddp: DistributedDataParallel, gradients: Sequence[Tensor], pace: Pace, size: int, unit_bytes: float
) -> Exchanged:
    """DDP's door; a gradient for each parameter that DDP reduces, by its numbers."""
    number = _numbers(ddp)
    sizes = [param.nbytes for param in trained(ddp)]
    bucket_of = {one: tuple(bucket) for bucket in buckets(sizes, pace.order, unit_bytes) for one in bucket}
    named = trainable(ddp)
    own = [number[id(param)] for _, param in named]
    return Exchanged(named, [gradients[i] for i in own], [bucket_of[i] for i in own], size)


def through_module(ddp: DistributedDataParallel, gradients: Sequence[Tensor], size: int) -> Exchanged:
    """The door of a module without a wrapper, as if DDP's were bare."""
    number = _numbers(ddp)
    named = in_order_of_arrival(cast(nn.Module, ddp.module))
    own = [number[id(param)] for _, param in named]
    return Exchanged(named, [gradients[i] for i in own], [(i,) for i in own], size, in_order=True)


def through_shards(whole: Exchanged, rank: int, island: int) -> Exchanged:
    """The module door, where FSDP2 has cut every tensor in `island` shards: those of one rank."""
    named = [(name, shard_of(param, rank % island, island)) for name, param in whole.named]
    gradients = [shard_of(gradient, rank % island, island) for gradient in whole.gradients]
    return replace(whole, named=named, gradients=gradients, size=whole.size // island)


def shard_of(tensor: Tensor, place: int, island: int) -> Tensor:
    """The rows of a tensor that the rank at a place of an island holds, as FSDP2 cuts it; there may be none."""
    rows = tensor.detach().reshape(tensor.shape or (1,))
    longest = -(-len(rows) // island)
    return rows[min(place * longest, len(rows)) : (place + 1) * longest]


def own_traffic(nbytes: float, island: int) -> float:
    """Bytes that FSDP2 itself puts on a rank's link inside an island, of a model of so many bytes."""
    return 3 * (island - 1) / island * nbytes


def own_part(nbytes: float, inside: Link, unit_bytes: float) -> Part:
    """Seconds of FSDP2's own collectives, as if it sharded in groups of `unit_bytes`.

    A reduce-scatter is half an all-reduce.
    """
    groups = max(1, math.ceil(nbytes / unit_bytes))
    gathered = own_traffic(nbytes, inside.size) / 3 / groups
    gather, reduce = inside.part("AllGather", gathered), inside.part("AllReduce", 2 * gathered)
    return Part(groups * (2 * gather.cpu + reduce.cpu / 2), groups * (2 * gather.wait + reduce.wait / 2))


def beside(pace: Pace, own: Part, share: float) -> Pace:
    """The pace of a model with collectives of its own beside its computing; who shares a core computes for both."""
    stretched = max(pace.compute + own.cpu * (1 / share - 1), own.cpu + own.wait)
    factor = stretched / pace.compute
    return replace(
        pace,
        compute=stretched,
        ready=tuple(factor * at for at in pace.ready),
        period=pace.period + stretched - pace.compute,
    )


def _numbers(ddp: DistributedDataParallel) -> dict[int, int]:
    """DDP's number of each parameter, by its id."""
    return {id(param): number for number, param in enumerate(trained(ddp))}
