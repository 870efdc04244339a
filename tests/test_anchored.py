"""Rounds of local steps in one process: n workers' anchored units in lockstep, over the whole zoo."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import zoo
from torch import Tensor

import gradwire as gw
from gradwire.compress.topk import TopK
from gradwire.engine.anchored import Anchored
from gradwire.exchange.law import law_broken
from gradwire.exchange.protocol import BEFORE, flatten
from gradwire.layout import Turn
from gradwire.spec import as_outer, parse

N = 5
CPU = torch.device("cpu")
SHAPES = {name: tuple(shape) for name, shape in zip(zoo.LAYOUT.names, zoo.LAYOUT.shapes, strict=True)}
GRADIENTS_ONLY = ("gdci", "vrgdci", "iterates", "lr_in_memory=true")


class Workers:
    """The units of n workers of one model, which start alike."""

    def __init__(self, spec: object, outer: str = "sgd", n: int = N, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(0)
        start = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}
        self.exchange = parse(spec) if isinstance(spec, str) else spec
        self.outer, self.n, self.round = as_outer(outer, "a test"), n, 0
        self.tensors = [{name: part.clone() for name, part in start.items()} for _ in range(n)]
        self.units = [Anchored(list(each.items()), self.exchange, self.outer, CPU) for each in self.tensors]
        self.ledger = gw.Ledger(n)

    @property
    def thetas(self) -> Tensor:
        return torch.stack([torch.cat([part.flatten() for part in each.values()]) for each in self.tensors])

    @property
    def anchors(self) -> Tensor:
        return torch.stack([unit.anchor for unit in self.units])

    def wander(self, length: float = 0.01, seed: int = 1) -> None:
        """Take local steps: every worker moves differently."""
        generator = torch.Generator().manual_seed(1000 * seed + self.round)
        for each in self.tensors:
            for part in each.values():
                part.add_(length * torch.randn(part.shape, generator=generator))

    def meet(self, how: str = "mix") -> None:
        """Run one exchange, after which all workers catch up."""
        turns = [Turn(rank, self.n, self.round, zoo.LAYOUT, 3) for rank in range(self.n)]
        scratch = [torch.full((zoo.LAYOUT.d,), math.nan, dtype=self.units[0].anchor.dtype) for _ in range(self.n)]
        talks = [
            unit.average(self.exchange, self.outer, turn, x)
            for unit, turn, x in zip(self.units, turns, scratch, strict=True)
        ]
        gw.lockstep(talks, self.ledger)
        for unit in self.units:
            unit.catch_up(how, moved=True)
        self.round += 1


def rounds(spec: str) -> bool:
    return not any(word in spec for word in GRADIENTS_ONLY)


@pytest.mark.parametrize("spec", [spec for spec in zoo.SPECS if rounds(spec)])
@pytest.mark.parametrize("outer", zoo.OUTERS)
def test_after_every_round_all_workers_hold_the_same_bits(spec: str, outer: str) -> None:
    workers = Workers(spec, outer)
    for _ in range(3):
        workers.wander()
        workers.meet()
        assert all(torch.equal(theta, workers.anchors[0]) for theta in (*workers.thetas, *workers.anchors))


@pytest.mark.parametrize("spec", ["mean", "identity"])
def test_plain_means_average_parameters_bit_for_bit(spec: str) -> None:
    """This holds for numbers whose sums are exact. Others differ in the last bit, because differences are sent."""
    workers = Workers(spec, "sgd(lr=1.0)", n=4)
    for each in workers.tensors:
        for part in each.values():
            part.copy_((part * 256).round() / 256)
    for unit in workers.units:
        unit.start()
    for number in range(3):
        for rank, each in enumerate(workers.tensors):
            for part in each.values():
                part.add_(torch.randint(-64, 64, part.shape, generator=torch.Generator().manual_seed(rank)) / 256)
        expected = workers.thetas.mean(0)
        workers.meet()
        assert torch.equal(workers.thetas[0], expected), number


def test_one_step_of_sgd_and_a_mean_is_data_parallel_sgd() -> None:
    workers = Workers("identity")
    alone = workers.thetas[0].clone()
    for step in range(5):
        gradients = torch.randn(N, zoo.LAYOUT.d, generator=torch.Generator().manual_seed(step))
        for each, gradient in zip(workers.tensors, gradients, strict=True):
            for name, part in zoo.LAYOUT.cut(gradient).items():
                each[name].sub_(0.1 * part)
        alone -= 0.1 * gradients.mean(0)
        workers.meet()
        torch.testing.assert_close(workers.thetas[0], alone)


def test_nesterov_and_the_mean_is_diloco() -> None:
    """DiLoCo written with torch: an SGD with Nesterov momentum gets the mean difference as its gradient."""
    workers = Workers("mean", "nesterov(lr=0.7, momentum=0.9)")
    anchor = workers.thetas[0].clone().requires_grad_()
    theirs = torch.optim.SGD([anchor], lr=0.7, momentum=0.9, nesterov=True)
    for _ in range(5):
        workers.wander()
        anchor.grad = (anchor.detach() - workers.thetas).mean(0)
        theirs.step()
        workers.meet()
        torch.testing.assert_close(workers.thetas[0], anchor.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "spec", ["ef(topk(density=0.05))", "ef(deft(density=0.05))", "ef(topk(density=0.2, values='bits2'))"]
)
def test_error_feedback_conserves_what_workers_have_done(spec: str) -> None:
    """The sum of all differences is n times the sum of all means, plus what the memories hold."""
    workers = Workers(spec, "sgd(lr=1.0)")
    start, done = workers.anchors[0].double(), torch.zeros(zoo.LAYOUT.d, dtype=torch.float64)
    for _ in range(6):
        workers.wander()
        done += (workers.anchors.double() - workers.thetas.double()).sum(0)
        workers.meet()
    held = sum(unit.memory["error"].double() for unit in workers.units)
    torch.testing.assert_close(done, N * (start - workers.anchors[0].double()) + held, rtol=0, atol=1e-5)
    assert held.norm() > 0.01 * done.norm()


def test_senders_mean_moves_each_coordinate_by_the_mean_of_those_who_sent_it() -> None:
    workers = Workers("topk(density=0.1)", "sgd(lr=1.0, mean='senders')")
    workers.wander()
    x = workers.anchors - workers.thetas
    kept = torch.zeros_like(x).scatter(1, x.abs().topk(TopK(0.1).count(zoo.LAYOUT.d), dim=1).indices, 1.0)
    expected = workers.anchors[0] - (x * kept).sum(0) / kept.sum(0).clamp(min=1)
    workers.meet()
    torch.testing.assert_close(workers.anchors[0], expected)


def test_chunks_decay_and_senders_are_sparseloco() -> None:
    """SparseLoCo's round in plain torch, except for its quantiser: 64 of each 4096, decay 0.95, mean over senders."""
    generator = torch.Generator().manual_seed(0)
    tensors = [{"w": torch.zeros(3 * 4096)} for _ in range(N)]
    exchange = parse("ef(chunkedtopk(density=0.015625), decay=0.95)")
    outer = as_outer("sgd(lr=0.7, mean='senders')", "a test")
    units = [Anchored(list(each.items()), exchange, outer, CPU) for each in tensors]
    anchor, errors = torch.zeros(3 * 4096), torch.zeros(N, 3 * 4096)
    for number in range(4):
        steps = torch.randn(N, 3 * 4096, generator=generator)
        for each, step in zip(tensors, steps, strict=True):
            each["w"].add_(step)
        errors = 0.95 * errors + anchor - (anchor + steps)
        chunks = errors.view(N, 3, 4096)
        best = chunks.abs().topk(64).indices
        sent = torch.zeros_like(chunks).scatter_(-1, best, chunks.gather(-1, best)).view(N, -1)
        errors = errors - sent
        anchor = anchor - 0.7 * sent.sum(0) / (sent != 0).sum(0).clamp(min=1)
        turns = [Turn(rank, N, number, units[0].layout) for rank in range(N)]
        scratch = torch.empty(N, 3 * 4096)
        gw.lockstep([u.average(exchange, outer, t, x) for u, t, x in zip(units, turns, scratch, strict=True)])
        for unit in units:
            unit.catch_up("mix", moved=True)
        torch.testing.assert_close(tensors[0]["w"], anchor, rtol=1e-5, atol=1e-5)


@dataclass(frozen=True)
class Breaks:
    """An exchange whose transport fails after its first message."""

    exchange: gw.Exchange

    def init(self, *arguments: object, **options: object) -> gw.State:
        return self.exchange.init(*arguments, **options)  # type: ignore[arg-type]

    async def __call__(self, x: Tensor, state: gw.State, turn: Turn) -> gw.Sent:
        sent = await self.exchange(x, state, turn)
        if turn.step == 2:
            raise ConnectionError("the link is down")
        return sent

    def accumulate(self, pieces: object, state: gw.State, turn: Turn) -> object:
        accumulate = getattr(self.exchange, "accumulate", None)
        return accumulate(pieces, state, turn) if accumulate else None

    def rollback(self, state: gw.State) -> None:
        self.exchange.rollback(state)  # type: ignore[attr-defined]

    def omega(self, d: int) -> float | None:
        return self.exchange.omega(d)

    def delta(self, d: int) -> float | None:
        return self.exchange.delta(d)


@pytest.mark.parametrize("spec", [spec for spec in zoo.TRAINED if rounds(spec)])
def test_a_failed_exchange_leaves_everything_as_it_was(spec: str) -> None:
    workers = Workers(Breaks(parse(spec)))
    for _ in range(2):
        workers.wander()
        workers.meet()
    workers.wander()
    before = copy.deepcopy([(unit.anchor, unit.memory, unit.outer) for unit in workers.units])
    thetas = workers.thetas
    with pytest.raises(ConnectionError):
        workers.meet()
    for unit, (anchor, memory, _) in zip(workers.units, before, strict=True):
        assert torch.equal(unit.anchor, anchor)
        old = {name: values for *_, name, values in flatten(memory)}
        new = {name: values for *_, name, values in flatten(unit.memory)}
        assert old.keys() == new.keys()
        assert all(torch.equal(old[name], new[name]) for name in old)
    assert torch.equal(workers.thetas, thetas)


def test_the_round_after_a_failed_exchange_contains_the_lost_one() -> None:
    """The next difference contains everything since the workers last met, which is two rounds."""
    broken, whole = Workers(Breaks(parse("mean")), "sgd(lr=1.0)"), Workers("mean", "sgd(lr=1.0)")
    for workers in (broken, whole):
        for seed in (1, 2):
            workers.wander(seed=seed)
            workers.meet()
        workers.wander(seed=7)
    with pytest.raises(ConnectionError):
        broken.meet()
    broken.round += 1
    for workers in (broken, whole):
        workers.round = 3
        workers.wander(seed=8)
        workers.meet()
    assert torch.equal(broken.thetas, whole.thetas)


@pytest.mark.parametrize("spec", ["ef(topk(density=0.05))", "diana(randk(density=0.2))", "ef(topk(0.05), beta=0.5)"])
def test_nothing_but_the_memory_is_kept_between_rounds(spec: str) -> None:
    workers = Workers(spec)
    workers.wander()
    workers.meet()
    assert all(BEFORE not in unit.memory and unit.held is None for unit in workers.units)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    """The anchor is at least float32. Tensors start each round at its rounding, which is no progress to send."""
    workers = Workers("ef(topk(density=0.2))", dtype=dtype)
    workers.wander()
    workers.meet()
    assert workers.anchors.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.equal(workers.thetas[0], workers.anchors[0].to(dtype))
    held = torch.stack([unit.memory["error"] for unit in workers.units])
    workers.exchange = parse("ef(topk(density=1.0))")
    for unit in workers.units:
        unit.memory["error"].zero_()
    before = workers.anchors.clone()
    workers.meet()  # nobody has moved
    assert torch.equal(workers.anchors, before)
    assert held.abs().max() > 0


# ---- what went on while the exchange was under way


def late(how: str, spec: str = "mean") -> tuple[Workers, Tensor, Tensor]:
    """Return workers that went on while they met, with what they held then and their steps since."""
    workers = Workers(spec)
    workers.wander()
    for unit in workers.units:
        unit.hold()
    held = workers.thetas
    workers.wander(seed=2)
    way = workers.thetas - held
    workers.meet(how)
    return workers, held, way


def test_add_keeps_the_steps_in_full() -> None:
    workers, held, way = late("add")
    torch.testing.assert_close(workers.anchors[0], held.mean(0))
    torch.testing.assert_close(workers.thetas, held.mean(0) + way)


def test_mix_is_halfway() -> None:
    workers, held, way = late("mix")
    torch.testing.assert_close(workers.thetas, 0.5 * (held + way) + 0.5 * held.mean(0))


def test_drop_throws_them_away() -> None:
    workers, held, _ = late("drop")
    torch.testing.assert_close(workers.thetas, held.mean(0).expand(N, -1))


def test_with_add_no_local_step_is_ever_lost() -> None:
    """However late the means are, the mean of the models moves by the mean of all local steps."""
    workers = Workers("mean")
    start, done = workers.thetas.mean(0), torch.zeros(zoo.LAYOUT.d)
    for _ in range(4):
        before = workers.thetas
        workers.wander(seed=1)
        for unit in workers.units:
            unit.hold()
        workers.wander(seed=2)
        done += (workers.thetas - before).mean(0)
        workers.meet("add")
    torch.testing.assert_close(workers.thetas.mean(0), start + done, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", ["add", "mix", "drop"])
def test_an_exchange_that_moved_nothing_leaves_tensors_alone(how: str) -> None:
    workers = Workers("mean")
    workers.wander()
    workers.units[0].hold()
    thetas = workers.thetas
    workers.units[0].catch_up(how, moved=False)
    assert torch.equal(workers.thetas, thetas)
    assert workers.units[0].held is None


@pytest.mark.parametrize("spec", [spec for spec in zoo.SPECS if rounds(spec)])
def test_the_law_holds_for_differences(spec: str) -> None:
    """Sent through the exchange alone, the same vectors move every worker's anchor by the mean of what all sent."""
    workers = Workers(spec, "sgd(lr=1.0)")
    simulator = gw.Simulator(spec, zoo.LAYOUT, N, seed=3)
    for _ in range(2):
        workers.wander()
        before = workers.anchors.clone()
        sent = simulator.send(before - workers.thetas)
        owns, means = [one.own.dense() for one in sent], [one.mean.dense() for one in sent]
        assert law_broken(owns, means, 0.0, 1e-5) is None
        workers.meet()
        torch.testing.assert_close(workers.anchors[0], before[0] - means[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make", [lambda: {"x": torch.zeros(0)}, lambda: {"x": torch.zeros(()), "y": torch.zeros(3, 0)}]
)
def test_empty_and_scalar_tensors(make: Callable[[], dict[str, Tensor]]) -> None:
    unit = Anchored(list(make().items()), parse("mean"), as_outer("nesterov", "a test"), CPU)
    turn = Turn(0, 1, 0, unit.layout)
    gw.lockstep([unit.average(parse("mean"), as_outer("nesterov", "a test"), turn, torch.empty(unit.layout.d))])
    assert unit.finite()
