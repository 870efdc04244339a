"""What is not an exchange, or does not behave like one, is refused in one sentence, the same at every door."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
import torch
import zoo

import gradwire as gw
from gradwire.exchange.law import BrokenLaw
from gradwire.reprs import describe
from gradwire.spec import as_exchange, build, parse

LAYOUT = gw.Layout(["x"], [(5,)])


class Half:
    """An exchange that lacks its constants."""

    def init(self, layout, dtype=torch.float32, device="cpu", batch_shape=()):
        return {}

    async def __call__(self, x, state, turn):
        return x


class Raw(Half):
    """An exchange that returns a tensor."""

    def omega(self, d):
        return None

    def delta(self, d):
        return None


class Silent(Raw):
    async def __call__(self, x, state, turn):
        await gw.AllReduce(x)


class Plain(Raw):
    """An exchange without `async`."""

    def __call__(self, x, state, turn):
        return gw.Sent(gw.Dense(x), gw.Dense(x))


@dataclass(frozen=True)
class Bare(Raw):
    """An exchange that returns a Sent of tensors."""

    times: float = 1.0
    width: int = 4

    async def __call__(self, x, state, turn):
        return gw.Sent(own=gw.Dense(x), mean=await gw.AllReduce(x))


def function(x, state, turn):
    return x


COMPRESSOR = "and topk(density=0.1) is a compressor: it becomes an exchange as gathered(topk(density=0.1))"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (gw.compress.TopK(0.1), COMPRESSOR),
        (
            gw.compress.Chain(gw.compress.TopK(0.1), gw.compress.Dithering(4)),
            "and chain(topk(density=0.1), dithering(s=4)) is a compressor: it becomes an exchange as "
            "gathered(chain(topk(density=0.1), dithering(s=4)))",
        ),
        (gw.memory.EF, "and EF is a class: give it an instance, EF(exchange)"),
        (gw.exchange.Mean, "and Mean is a class: give it an instance, Mean()"),
        (gw.compress.TopK, "and TopK is a class: give it an instance, TopK(density)"),
        (Half(), "and Half lacks omega and delta"),
        (function, "and function lacks init, omega and delta"),
        (3, "got 3"),
        (None, "got None"),
    ],
)
def test_what_is_no_exchange_is_refused_alike_at_every_door(given: object, words: str) -> None:
    doors = {
        "Simulator takes an exchange or its spec": lambda: gw.Simulator(given, LAYOUT, 2),
        "attach takes an exchange or its spec": lambda: as_exchange(given, "attach"),
    }
    memories = {
        "ef wraps an exchange": lambda: gw.memory.EF(given),
        "momentum wraps an exchange": lambda: gw.memory.Momentum(given, 0.1),
    }
    gathered = "and topk" in words or "and chain" in words  # doors take an object as they take its spec
    if gathered:
        assert as_exchange(given, "attach") == gw.exchange.Gathered(given)
    for who, door in (memories if gathered else doors | memories).items():
        with pytest.raises(TypeError) as refused:
            door()
        assert str(refused.value) == f"{who}, {words}"


def test_a_spec_is_read_at_the_door_and_its_compressor_gathered() -> None:
    assert gw.Simulator("topk(density=0.1)", LAYOUT, 2).exchange == gw.exchange.Gathered(gw.compress.TopK(0.1))
    with pytest.raises(gw.SpecError, match="did you mean 'topk'"):
        gw.Simulator("tokp(density=0.1)", LAYOUT, 2)
    with pytest.raises(gw.SpecError, match=r"topk takes density, .* missing .*; did you mean density\?"):
        gw.parse("topk(densty=0.1)")
    with pytest.raises(gw.SpecError, match=r"topk is given density twice in the spec"):
        gw.parse("ef(topk(density=0.1, density=0.2))")


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(
    ("exchange", "words"),
    [
        (Raw(), "an exchange returns Sent(own=..., mean=...), and Raw returned a Tensor"),
        (Silent(), "an exchange returns Sent(own=..., mean=...), and Silent returned None"),
        (
            Plain(),
            "an exchange's __call__ is a coroutine, `async def __call__(self, x, state, turn)`, and that of Plain "
            "returned a Sent",
        ),
        (
            Bare(2.0),
            "an exchange returns vectors, such as Dense(tensor), and bare(times=2.0) returned Sent whose mean is a "
            "Tensor",
        ),
    ],
)
def test_an_exchange_that_returns_something_else_is_refused(exchange: gw.Exchange, words: str, batched: bool) -> None:
    with pytest.raises(TypeError) as refused:
        gw.Simulator(exchange, LAYOUT, 2, batched=batched).step(torch.ones(2, 5))
    assert str(refused.value) == words


async def wait_for_the_sum() -> torch.Tensor:
    return await gw.AllReduce(torch.ones(5))


@pytest.mark.parametrize(
    "talk", [lambda: gw.exchange.Mean()(torch.ones(5), {}, gw.Turn(0, 1, 0, LAYOUT)), wait_for_the_sum]
)
def test_an_event_loop_is_told_who_runs_an_exchange(talk) -> None:
    with pytest.raises(TypeError) as refused:
        asyncio.run(talk())
    assert str(refused.value) == (
        "AllReduce(float32[5]) was awaited in an event loop, which cannot answer it: run the exchange in a Simulator "
        "or by lockstep(...), not by asyncio"
    )


def test_lockstep_works_inside_an_event_loop() -> None:
    """A notebook has one."""

    async def cell() -> torch.Tensor:
        return gw.Simulator("mean", LAYOUT, 2).step(torch.ones(2, 5)).mean

    assert torch.equal(asyncio.run(cell()), torch.ones(5))


# ---- descriptions


@pytest.mark.parametrize(
    ("part", "spec"),
    [
        (gw.compress.TopK(0.01), "topk(density=0.01)"),
        (gw.compress.TopK(0.01, "bits2"), "topk(density=0.01, values='bits2')"),
        (gw.exchange.Gathered(gw.compress.Natural()), "natural"),
        (gw.memory.EF(gw.exchange.Gathered(gw.compress.TopK(0.01))), "ef(topk(density=0.01))"),
        (
            gw.memory.EF(gw.exchange.DEFT(0.01), beta=0.5, lr_in_memory=True),
            "ef(deft(density=0.01), beta=0.5, lr_in_memory=true)",
        ),
        (gw.compress.Blockwise(gw.compress.Ternary(), 16), "blockwise(ternary, size=16)"),
        (gw.exchange.SharedRandK(0.5, unbiased=False), "sharedrandk(density=0.5, unbiased=false)"),
        (
            gw.memory.Shifted(gw.exchange.Gathered(gw.compress.Natural()), gw.memory.Restart(0.5)),
            "shifted(natural, restart(p=0.5))",
        ),
        (gw.exchange.Mean(), "mean"),
    ],
)
def test_a_part_is_described_as_one_would_write_it(part: object, spec: str) -> None:
    assert describe(part) == spec


@pytest.mark.parametrize("part", [*map(parse, zoo.SPECS), *zoo.COMPRESSORS], ids=repr)
def test_a_description_is_a_spec(part: object) -> None:
    spec = describe(part)
    assert part == (parse(spec) if isinstance(part, gw.Exchange) else build(spec))
    assert len(spec) <= len(repr(part))


# ---- Simulator(check=True)


class Own(Raw):
    """An exchange in which every worker's mean is its own vector."""

    async def __call__(self, x, state, turn):
        await gw.AllReduce(x)
        return gw.Sent(gw.Dense(x.clone()), gw.Dense(x.clone()))


class Sum(Raw):
    """An exchange that is right for two steps and then returns a sum instead of a mean."""

    async def __call__(self, x, state, turn):
        total = await gw.AllReduce(x)
        return gw.Sent(gw.Dense(x.clone()), gw.Dense(total / turn.size if turn.step < 2 else total))


class Infinite(Raw):
    async def __call__(self, x, state, turn):
        total = await gw.AllReduce(x)
        own = x / (turn.rank != 1) if isinstance(turn.rank, int) else x / torch.tensor([[1.0], [0.0]])
        return gw.Sent(gw.Dense(own), gw.Dense(total / turn.size))


XS = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0, 7.0]])


@pytest.mark.parametrize(
    ("exchange", "batched", "words"),
    [
        (
            Own(),
            False,
            "Own breaks the law of exchanges at step 0: worker 1's mean is not worker 0's: 7 and 5 at element 4",
        ),
        (
            Sum(),
            False,
            "Sum breaks the law of exchanges at step 2: the average of the 2 workers' own is not the mean: 6 and 12 at "
            "element 4, where 0.0012 is allowed",
        ),
        (
            Sum(),
            True,
            "Sum breaks the law of exchanges at step 2: the average of the 2 workers' own is not the mean: 6 and 12 at "
            "element 4, where 0.0012 is allowed",
        ),
        (
            Infinite(),
            False,
            "Infinite breaks the law of exchanges at step 0: worker 1's own holds a value that is not finite",
        ),
        (
            Infinite(),
            True,
            "Infinite breaks the law of exchanges at step 0: worker 1's own holds a value that is not finite",
        ),
    ],
)
def test_a_checked_simulation_names_the_step_and_the_worker(exchange, batched: bool, words: str) -> None:
    sim, unchecked = (gw.Simulator(exchange, LAYOUT, 2, batched=batched, check=check) for check in (True, False))
    step = int(words.split("at step ")[1][0])
    for _ in range(step):
        unchecked.step(XS)
        sim.step(XS)
    unchecked.step(XS)
    with pytest.raises(BrokenLaw) as broken:
        sim.step(XS)
    assert str(broken.value) == words


@pytest.mark.parametrize("spec", zoo.SPECS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checked_simulation_is_the_same_and_passes(spec: str, dtype: torch.dtype) -> None:
    plain, checked = (gw.Simulator(spec, zoo.LAYOUT, 3, check=check) for check in (False, True))
    for step in range(4):
        xs = torch.randn(3, zoo.LAYOUT.d, generator=torch.Generator().manual_seed(step)).to(dtype)
        model = torch.ones(zoo.LAYOUT.d, dtype=dtype)
        assert torch.equal(plain.step(xs, model).mean, checked.step(xs, model).mean)


@pytest.mark.parametrize("spec", ["diana(natural)", "ef21(topk(density=0.1))", "ef(topk(density=0.1))"])
def test_a_checked_simulation_allows_for_drift(spec: str) -> None:
    sim = gw.Simulator(spec, gw.Layout(["x"], [(3,)]), 3, check=True)
    for step in range(1000):
        sim.step(torch.randn(3, 3, generator=torch.Generator().manual_seed(step)))


def test_a_checked_simulation_lets_a_guarded_step_through() -> None:
    sim = gw.Simulator("guard(ef(topk(density=0.1)))", LAYOUT, 2, check=True)
    broken = XS.clone()
    broken[1, 2] = float("inf")
    assert not sim.step(broken).mean.isfinite().all()
    assert sim.step(XS).mean.isfinite().all()
