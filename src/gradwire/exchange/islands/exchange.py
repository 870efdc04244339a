"""Islands: average inside islands with fast links first, then exchange the islands' means over the slow links.

Of n workers in islands of s, worker r is number r % s of island r // s.
    y_i    = mean of x over island i, by the exchange `inner`
    mean   = mean of y over the n / s islands, by the exchange `between`, in which island i is worker i
    own_r  = own_r of `inner` - y_i + own_i of `between`
The average of own_r over an island is own_i of `between`, so the law of exchanges holds.

All members of an island hold the same y_i and the same memory of `between`, so they would send the same messages. Each
sends one s-th of them, to the members of the same number in other islands, and the members gather what they have
received (slices.py). So every byte leaves an island once.

Averages inside an island are computed in float32 at least, because the memory of `between` must not depend on rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradwire.ask import AllReduce, Ask, Axis, Talk, among
from gradwire.checks import check_whole
from gradwire.exchange.change import Change, change_
from gradwire.exchange.islands.slices import relayed, sliced, sliced_batch
from gradwire.exchange.parts import check_workers
from gradwire.exchange.protocol import Exchange, State, check_exchange, flatten, nest
from gradwire.layout import Layout, Turn
from gradwire.registry import part
from gradwire.reprs import describe
from gradwire.vector import Dense, Offset, Sent, Sparse, Vector, widen


@part("islands", "exchange", example="islands(mean, ef(deft(density=0.01)), size=8)")
@dataclass(frozen=True)
class Islands:
    """Average inside islands of `size` workers with neighbouring ranks, then exchange the islands' means.

    Args:
        inner: the exchange inside an island; it must not have a memory.
        between: the exchange of the islands' means, with or without a memory.
        size: number of workers of an island, at least 1.
    """

    inner: Exchange
    between: Exchange
    size: int

    def __post_init__(self) -> None:
        check_exchange(self.inner, "islands(inner, ...)")
        check_exchange(self.between, "islands(..., between, ...)")
        check_whole("size", self.size)

    def check_workers(self, size: int) -> None:
        """Raise ValueError if a number of workers does not fill islands, or does not fit one of the exchanges."""
        if size % self.size:
            raise ValueError(
                f"islands of {self.size} need a number of workers that is a multiple of {self.size}, and this run has "
                f"{size}"
            )
        check_workers(self.inner, self.size)
        check_workers(self.between, size // self.size)

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        """Make the state of `between`, which is common to an island: a batch of n workers has n / size rows.

        Raises:
            ValueError: `inner` has a memory, or the batch does not fill islands.
        """
        for workers in batch_shape:
            self.check_workers(workers)
        islands, members = tuple(n // self.size for n in batch_shape), tuple(self.size for _ in batch_shape)
        inner = self.inner.init(layout, dtype, device, members)
        if any(flatten(inner)):
            raise ValueError(
                f"islands keep no memory inside an island, and {describe(self.inner)} has one: put the memory between, "
                "as in islands(mean, ef(...), size=...)"
            )
        return {"inner": inner, "between": self.between.init(layout, dtype, device, islands)}

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Run `inner` inside the island, then `between`."""
        self.check_workers(turn.size)
        inside, between = Axis(self.size), Axis(turn.size // self.size, self.size)
        if isinstance(turn.rank, slice):
            return await self._batched(widen(x), state, turn, inside, between)
        island = self._island(turn, turn.rank // self.size, inside.place(turn.rank))
        inner_sent = await relayed(self.inner(widen(x), nest(state, "inner"), island), lambda ask: among(ask, inside))
        y = inner_sent.mean.dense()
        between_turn = replace(turn, rank=turn.rank // self.size, size=between.size)
        talk, place = self.between(y, nest(state, "between"), between_turn), inside.place(turn.rank)
        sent = await relayed(talk, lambda ask: sliced(ask, inside, between, place))
        # own of `inner` - (y - own of `between`), without a dense temporary.
        own = Offset(inner_sent.own.dense(), Offset(y, sent.own, -1.0), -1.0)
        return Sent(own, _of_all(sent.mean, self.size), sent.finite)

    async def _batched(self, x: Tensor, state: State, turn: Turn, inside: Axis, between: Axis) -> Sent:
        """Run one batch per island for `inner`, and one batch of all islands for `between`."""
        all_rows = slice(None)
        rows = x.view(between.size, self.size, -1).unbind()
        talks = [self.inner(part, nest(state, "inner"), self._island(turn, i, all_rows)) for i, part in enumerate(rows)]
        inner_sent = await _together(talks, inside)
        y = torch.stack([one.mean.dense() for one in inner_sent])
        between_turn = replace(turn, size=between.size)
        talk = self.between(y, nest(state, "between"), between_turn)
        sent = await relayed(talk, lambda ask: sliced_batch(ask, inside, between))
        own = torch.stack([one.own.dense() for one in inner_sent]) + (sent.own.dense() - y).unsqueeze(1)
        return Sent(Dense(own.flatten(0, 1)), _of_all(sent.mean, self.size), sent.finite)

    async def change(self, state: State, change: Change) -> None:
        """Change the state of `between`; then the members of each new island average their memories.

        Raises:
            ValueError: the present workers do not fill islands; raised on all of them.
        """
        self.check_workers(change.after)
        await change_(self.between, nest(state, "between"), change)
        for _, _, _, values in flatten(nest(state, "between")):
            if values.shape == (change.layout.d,):
                values.copy_(await among(AllReduce(values / self.size), Axis(self.size)))

    def omega(self, d: int) -> float | None:
        """Return 0 if nothing is lost, else None: a worker's own depends on its neighbours' vectors."""
        return 0.0 if self.inner.omega(d) == 0.0 and self.between.omega(d) == 0.0 else None

    def delta(self, d: int) -> float | None:
        """Return 1 if nothing is lost, else None: a worker's own depends on its neighbours' vectors."""
        return 1.0 if self.omega(d) == 0.0 else None

    def _island(self, turn: Turn, number: int, rank: int | slice) -> Turn:
        """Return a worker's turn in its island, with independent randomness for every island."""
        return replace(turn, rank=rank, size=self.size).fork(f"island {number}")


async def _together(talks: Sequence[Talk[Sent]], inside: Axis) -> list[Sent]:
    """Run the batches of all islands side by side; their asks are joined to one, with a row for every worker."""
    answers: Sequence[Tensor | None] = [None] * len(talks)
    try:
        while True:
            asks: list[Ask] = []
            sent: list[Sent] = []
            for talk, answer in zip(talks, answers, strict=True):
                try:
                    asks.append(talk.send(answer))  # type: ignore[arg-type]  # a fresh coroutine takes None
                except StopIteration as end:
                    sent.append(end.value)
            if len(sent) == len(talks):
                return sent
            rows = asks[0].bringing(torch.cat([ask.x for ask in asks]))
            # [islands, groups of an island, ...]; there is one group, unless the ask itself is among groups.
            found = await among(rows, inside)
            found = found.view(len(talks), len(found) // len(talks), *found.shape[1:])
            answers = (found if rows.axis is not None else found[:, 0]).unbind()
    finally:
        for talk in talks:
            talk.close()


def _of_all(mean: Vector, size: int) -> Vector:
    """Convert the mean over islands to one over workers, `size` of which stand behind each island's entry."""
    return replace(mean, per_sender=mean.per_sender * size) if isinstance(mean, Sparse) else mean
