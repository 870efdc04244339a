"""The module door: gradients of any module without DDP, whole or sharded by FSDP2 or tensor parallelism.

    a gradient is accumulated -> the parameter's hook hands it to the engine, while backward continues -> the end of
    backward waits until `param.grad` holds means

FSDP2 calls the same hooks with this rank's shard of a gradient, as soon as it is reduced inside the island. Each rank
of an island then exchanges its own shards with the ranks of other islands that hold the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from gradwire.checkpoint import plain
from gradwire.doors.arguments import unit_term
from gradwire.doors.arrivals import Arrivals
from gradwire.doors.frozen import frozen_parameters
from gradwire.doors.fsdp import reshard, sharded_modules
from gradwire.doors.group import check_shards
from gradwire.doors.hook import Hook
from gradwire.doors.initial import broadcast_initial
from gradwire.doors.scaling import Scaling
from gradwire.doors.wasted import Wasted
from gradwire.engine import Engine, Reduce, Scaler
from gradwire.exchange import Exchange
from gradwire.transport.members import Ranks

_ATTACHED: WeakKeyDictionary[nn.Module, list[tuple[Arrivals, tuple[Scaling, Wasted]]]] = WeakKeyDictionary()
"""Keeps doors alive as long as their modules. Doors hold no reference to a module, so this makes no cycle."""

UNIT_BYTES = 25 * 2**20
"""Default size of a unit: that of DDP's buckets."""


def attach_module(
    model: nn.Module,
    exchange: Exchange,
    seed: int,
    unit_bytes: float | None,
    scaler: Scaler | None,
    lr: Callable[[], float] | None,
    group: Ranks,
    *,
    find_unused: bool,
    reduce: Reduce,
) -> Hook:
    """Average `param.grad` of a module before the optimizer's step; see `gradwire.attach`."""
    named, unit_bytes = in_order_of_arrival(model), UNIT_BYTES if unit_bytes is None else unit_bytes
    _check_free(named)
    check_shards(named, group)
    engine = Engine(
        named,
        exchange,
        group,
        seed=seed,
        unit_bytes=unit_bytes,
        scaler=scaler,
        lr=lr,
        in_order=True,
        reduce=reduce,
        contract=unit_term(unit_bytes) | {"find_unused_parameters": repr(find_unused)},
    )
    broadcast_initial(model, engine.process)
    params = [param for _, param in named]
    door = Arrivals(engine, named, find_unused, frozen_parameters(model))
    watches = Scaling(engine, params), Wasted(engine, params)
    _ATTACHED.setdefault(model, []).append((door, watches))  # the caller need not keep the hook
    return Hook(engine, door.no_sync, [door.detach, *(watch.detach for watch in watches)], door.forget)


def _check_free(named: Sequence[tuple[str, Tensor]]) -> None:
    """Raise ValueError if a parameter is attached already: two engines would write its gradient."""
    doors = [door for pairs in list(_ATTACHED.values()) for door, _ in pairs if door.attached]
    if taken := [name for name, param in named if any(id(param) in door.names for door in doors)]:
        raise ValueError(f"parameter {taken[0]!r} is attached already: close its hook first")


def in_order_of_arrival(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return names and trainable parameters, roughly in the order in which backward produces their gradients.

    The last registered come first. FSDP2 reduces the parameters of a group together, a group after those inside it, so
    the root's shards come last wherever they are registered.

    Raises:
        ValueError: a module is wrapped in FSDP1.
    """
    reshard(model)
    named = [(plain(name), param) for name, param in model.named_parameters() if param.requires_grad][::-1]
    group_of: dict[int, int] = {}
    for number, module in enumerate(sharded_modules(model)):
        group_of |= {id(param): number for param in module.parameters()}  # inner modules overwrite outer ones
    return sorted(named, key=lambda pair: -group_of.get(id(pair[1]), 0))
