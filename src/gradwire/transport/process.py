"""Process: one worker of a torch.distributed group. Every ask is one collective, in the order of the asks.

It works on gloo, NCCL and any object with a process group's methods. It runs one collective at a time on purpose: a
second one launched from a callback of the first hangs gloo when several buckets are under way. For overlap, run it in a
thread of its own, on a group of its own; while one coroutine waits, another one may compute (`Ahead`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import AllgatherOptions  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.distributed_c10d import _world  # pyright: ignore[reportPrivateUsage] - there is no public way

from gradwire.ask import AllGather, AllReduce, AllToAll, Among, Ask, Axis, Broadcast, Op, Plain, Talk
from gradwire.transport.ledger import Ledger
from gradwire.transport.members import Members, Ranks
from gradwire.transport.opening import backend_of, group_of_some, timeout_of

T = TypeVar("T")

Answer: TypeAlias = Callable[[], Tensor]
"""A function that waits for a collective under way, and returns its answer."""

_OPS: dict[Op, Any] = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}

# torch 2.13 renamed it and warns of the old name; torch 2.12 and before know only the old one.
_all_gather: Callable[..., Any] = vars(dist).get("all_gather_single") or vars(dist)["all_gather_into_tensor"]


class Process:
    """Answer one worker's asks over a process group.

    Args:
        group: the group for all collectives; nothing else may use it meanwhile.
        ledger: counts what this worker sends and how long it waits.

    Attributes:
        group: the group; None once closed, and for a single rank.
        rank: this worker's rank in it.
        size: its number of ranks.
    """

    def __init__(self, group: Ranks, ledger: Ledger | None = None) -> None:
        self.ledger, self.closed = ledger or Ledger(), False
        self._parts: dict[Axis, Process] = {}
        self._foreign = isinstance(group, Members)
        self.group: dist.ProcessGroup | None = group.group if isinstance(group, Members) else group
        if isinstance(group, Members):
            self.rank, self.size = group.rank, group.size
        else:
            self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def run(self, worker: Talk[T], meanwhile: Callable[[], None] | None = None) -> T:
        """Run a coroutine to its end and return its result.

        `meanwhile` is called once, while the first collective is under way. It must neither raise nor communicate.

        Raises:
            RuntimeError: a collective has failed, because of a lost peer or a timeout.
            Exception: whatever the coroutine raises.
        """
        answer: Tensor | None = None
        try:
            while True:
                ask = worker.send(answer)  # type: ignore[arg-type]  # a fresh coroutine takes None
                started = time.perf_counter()
                answered = self._answer(ask)
                waited = time.perf_counter() - started
                if meanwhile is not None:
                    meanwhile()
                    meanwhile = None
                started = time.perf_counter()
                answer = answered()
                self.ledger.record(ask, self.rank, self.size, waited + time.perf_counter() - started)
        except StopIteration as end:
            return end.value
        finally:
            worker.close()

    def ask(self, ask: Ask) -> Tensor:
        """Run a single ask, and return its answer."""
        return self.run(_answered(ask))

    def close(self) -> None:
        """Destroy the group, and with it gloo's threads, which would abort a process that exits while they run.

        The owner of a group that torch does not know destroys it.
        """
        for part in self._parts.values():
            part.close()
        if self.group is not None and not self._foreign and self.group in _world.pg_map:
            dist.destroy_process_group(self.group)
        self.group, self.closed = None, True

    def overwrite(self, ask: Ask) -> Tensor:
        """Run one collective. If `ask.in_place`, the answer overwrites the ask's own tensor."""
        return self.begin(ask)()

    def begin(self, ask: Ask) -> Answer:
        """Begin one collective and return a function that waits for it; no other may begin before it was called."""
        if self.closed:
            raise RuntimeError("this transport is closed")
        ask.check(self.size)
        # A single rank sends nothing, and empty tensors, which are empty on every rank, are not sent.
        if self.group is None or not ask.x.numel():
            alone = ask.alone(self.size)
            return lambda: alone
        if isinstance(ask, Among):
            return self._part(self.group, ask.axis, ask.x.device).begin(ask.ask)
        with self._blaming_others():
            work, answer = self._collective(self.group, ask)
        return lambda: self._end(work, answer)

    def _end(self, work: dist.Work, answer: Tensor) -> Tensor:
        with self._blaming_others():
            work.wait()
        return answer

    @contextmanager
    def _blaming_others(self) -> Generator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(f"{self._others()} is gone or does not answer: {error}") from error

    def _others(self) -> str:
        """Name the ranks that may have caused a failed collective; backends do not report which one did."""
        return f"rank {1 - self.rank}" if self.size == 2 else f"one of the {self.size - 1} other ranks"

    def _collective(self, group: dist.ProcessGroup, ask: Plain) -> tuple[dist.Work, Tensor]:
        """Begin one collective over a group; return its work and the tensor that will hold the answer."""
        x = ask.x
        match ask:
            case AllReduce(op=op):
                return group.allreduce([x], _reduce_options(op)), x
            case AllGather():
                gathered = x.new_empty((self.size, *x.shape))
                return self._gather(group, gathered, x.contiguous()), gathered
            case Broadcast(root=root):
                return group.broadcast([x], _broadcast_options(root)), x
            case AllToAll():
                received = torch.empty_like(x, memory_format=torch.contiguous_format)
                options = dist.AllToAllOptions()
                return group.alltoall_base(received, x.contiguous(), [], [], options), received

    def _part(self, group: dist.ProcessGroup, axis: Axis, device: torch.device) -> Process:
        """Return this worker's group along an axis. All workers open their groups together at the first ask for one."""
        if axis not in self._parts:
            if axis.size == self.size:
                return self
            if self._foreign:
                raise ValueError("a group that was not made by torch.distributed cannot be divided into islands")
            self._parts[axis] = Process(self._opened(group, axis, device) if axis.size > 1 else Members(), self.ledger)
        return self._parts[axis]

    def _opened(self, group: dist.ProcessGroup, axis: Axis, device: torch.device) -> dist.ProcessGroup:
        """Open a group along an axis, named by a random number that all workers share and the group's number."""
        number = torch.tensor([secrets.randbits(62)], device=device)
        number = int(self.overwrite(Broadcast(number, 0)).item())
        name = f"gradwire-{number}-{axis.size}-{axis.stride}-{axis.number(self.rank)}"
        ranks = dist.get_process_group_ranks(group)
        members = [ranks[rank] for rank in axis.members(self.rank)]
        return group_of_some(members, backend_of(group), timeout_of(group, device), name)

    def _gather(self, group: dist.ProcessGroup, gathered: Tensor, x: Tensor) -> dist.Work:
        """Gather into one tensor; in a group that torch does not know, into its rows, which such groups support."""
        if self._foreign:
            return group.allgather([list(gathered.unbind())], [x], AllgatherOptions())
        return _all_gather(gathered.view(-1), x, group=group, async_op=True)

    def _answer(self, ask: Ask) -> Answer:
        """Begin one collective without overwriting the worker's tensor."""
        if ask.in_place:
            ask = ask.bringing(ask.x.clone(memory_format=torch.contiguous_format))
        return self.begin(ask)


async def _answered(ask: Ask) -> Tensor:
    return await ask


def _reduce_options(op: Op) -> Any:
    options = dist.AllreduceOptions()
    options.reduceOp = _OPS[op]
    return options


def _broadcast_options(root: int) -> Any:
    """Return options for a root given as a rank of the group."""
    options = dist.BroadcastOptions()
    options.rootRank = root
    return options
