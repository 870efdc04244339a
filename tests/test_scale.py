"""gradwire scale: networks as formulas, work by rehearsal, plans that are refused, sheets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import gradwire as gw
from gradwire import kernels
from gradwire.advice.crew import Crew, by_rank, rehearsed
from gradwire.advice.gradients import Gradients, of_ranks
from gradwire.advice.network import Network, Wire
from gradwire.advice.stamps import Events, stamps
from gradwire.advice.work import unit_step
from gradwire.ask import AllGather, AllReduce, AllToAll, Ask, Axis, Broadcast, among
from gradwire.cli import app
from gradwire.engine import make_units
from gradwire.lab import scale
from gradwire.lab.scale.plan import ScalePlan
from gradwire.memory import Guard
from gradwire.transport.rehearsal import Asked, rehearse

SLOW, FAST = Wire(1e-3, 1e6), Wire(1e-5, 1e9)
FLAT, ISLANDS = Network(SLOW), Network(SLOW, FAST, 4)


@pytest.mark.parametrize(("kind", "hops"), [("AllReduce", 2 * 7), ("AllGather", 7), ("Broadcast", 3), ("AllToAll", 1)])
def test_a_flat_network_is_hops_and_bytes(kind: str, hops: int) -> None:
    assert FLAT.seconds(Asked(kind, 5e5, 0.0), 8) == pytest.approx(hops * 1e-3 + 0.5)
    assert FLAT.seconds(Asked(kind, 0.0, 0.0), 1) == 0.0


def test_islands_share_a_slow_link() -> None:
    """With 8 ranks in islands of 4 a ring crosses once an island, and four groups that all cross share the link."""
    ring = Asked("AllReduce", 5e5, 0.0)
    assert ISLANDS.seconds(ring, 8) == pytest.approx(14 * 1e-3 + 0.5)
    inside = Asked("AllReduce", 5e5, 0.0, Axis(4))
    assert ISLANDS.seconds(inside, 8) == pytest.approx(6 * 1e-5 + 5e-4)
    between = Asked("AllReduce", 5e5, 0.0, Axis(2, 4))
    assert ISLANDS.seconds(between, 8) == pytest.approx(2 * 1e-3 + 4 * 0.5)
    # Of a broadcast of 1e5 bytes to 8, two rounds are inside; in the third four members send at once.
    tree = Asked("Broadcast", 3e5, 0.0)
    assert ISLANDS.seconds(tree, 8) == pytest.approx(2 * 1e-5 + 2e5 / 1e9 + 1e-3 + 4 * 0.1)
    # Of an all-to-all four sevenths go to the other island.
    direct = Asked("AllToAll", 7e5, 0.0)
    assert ISLANDS.seconds(direct, 8) == pytest.approx(1e-3 + 4 * 0.4)


def small() -> tuple[list[tuple[str, torch.Tensor]], list[torch.Tensor]]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(30, 40), nn.Linear(40, 50), nn.Linear(50, 3))
    gradients = [torch.randn_like(param) for param in net.parameters()]
    return [(name, param) for name, param in net.named_parameters()], gradients


def whole(
    spec: str, size: int, step: int, xs: Sequence[torch.Tensor] | None = None
) -> tuple[list[str], float, list[float]]:
    """Return kinds and traffic of a rehearsal of all workers, each with its own memory; xs are their vectors."""
    named, gradients = small()
    layout = gw.Layout([name for name, _ in named[::-1]], [tuple(param.shape) for _, param in named[::-1]])
    if xs is None:
        xs = [torch.cat([gradient.flatten() for gradient in gradients[::-1]])] * size
    exchange = Guard(gw.parse(spec))
    turns = [gw.Turn(rank, size, step, layout, lr=0.1) for rank in range(size)]
    states = [exchange.init(layout) for _ in turns]
    talks = []
    for x, state, turn in zip(xs, states, turns, strict=True):
        made = exchange.accumulate([x.clone()], state, turn)  # as the engine does
        given = kernels.accumulate(torch.empty_like(x), None, [x.clone()]) if made is None else made
        talks.append(exchange(given, state, turn))
    _, course = rehearse(talks, size)
    return [ask.kind for ask in course.asks], course.traffic, [ask.traffic for ask in course.asks]


@pytest.mark.parametrize("size", [4, 8, 16])
@pytest.mark.parametrize("between", ["ef(topk(density=0.3))", "ef(deft(density=0.2))", "mean"])
def test_islands_are_put_together_as_they_are(between: str, size: int) -> None:
    """They have the same asks in the same order, and the same bytes except the padding of the last slice."""
    spec = f"islands(mean, {between}, size=2)"
    named, gradients = small()
    work = scale.work_of(spec, named, [gradients], size, 2.0**30)
    assert not work.refusal
    kinds, total, each = whole(spec, size, 2_882_880)
    (course,) = work.courses
    assert [ask.kind for ask in course.asks] == kinds
    assert [ask.traffic for ask in course.asks] == pytest.approx(each, rel=0.02, abs=32)
    assert course.traffic == pytest.approx(total, rel=0.02)


@pytest.mark.parametrize("spec", ["ef(deft(density=0.1))", "ef(oktopk(density=0.1))", "deft(density=0.1)"])
def test_a_large_group_shares_its_memory_and_asks_as_one_that_does_not(spec: str) -> None:
    """For eight workers with separate parts, kinds, calls and bytes are the same."""
    named, gradients = small()
    exchange = gw.parse(spec)
    assert by_rank(exchange, 8)
    assert rehearsed(exchange, 8) == 8
    work = scale.work_of(spec, named, [gradients], 8, 2.0**30)
    (course,) = work.courses
    asked = [(ask.kind, ask.traffic) for ask in course.asks if ask.kind != "AllReduce" or ask.traffic > 100]
    kinds, _, each = whole(spec, 8, 2_882_880)
    wanted = [(kind, t) for kind, t in zip(kinds, each, strict=True) if kind != "AllReduce" or t > 100]
    if "oktopk" not in spec:  # whose thresholds have a step behind them
        assert [kind for kind, _ in asked] == [kind for kind, _ in wanted]
        assert [t for _, t in asked] == pytest.approx([t for _, t in wanted], rel=0.1, abs=16)
    assert work.memory > 0


def test_one_worker_stands_for_all_where_ranks_are_alike() -> None:
    assert rehearsed(gw.parse("ef(topk(density=0.1))"), 64) == 1
    assert rehearsed(gw.parse("ef(topk(density=0.1))"), 4) == 4
    with pytest.raises(ValueError, match="among 4 workers, and this run has 8"):
        rehearsed(gw.parse("permk(workers=4)"), 8)


def test_bytes_grow_as_they_should() -> None:
    """A gathered Top-k brings n - 1 messages; DEFT's values are about twice those kept for every n."""
    named, gradients = small()
    topk = [scale.work_of("ef(topk(density=0.1))", named, [gradients], n, 2.0**30) for n in (8, 64)]
    assert topk[1].up / topk[0].up == pytest.approx(63 / 7, rel=0.01)
    assert topk[1].memory > topk[0].memory
    dense = scale.work_of("dense", named, [gradients], 64, 2.0**30)
    assert dense.up == pytest.approx(2 * 63 / 64 * sum(4 * param.numel() for _, param in named))
    local = scale.work_of("local(every=30)", named, [gradients], 64, 2.0**30)
    assert (local.every, local.refusal) == (30, "")
    assert local.up > 0


def measured(ranks: int) -> list[list[torch.Tensor]]:
    """Return gradients of several ranks that share a third of their variance."""
    named, _ = small()
    common = [torch.randn(param.shape, generator=torch.Generator().manual_seed(99)) for _, param in named]
    found: list[list[torch.Tensor]] = []
    for rank in range(ranks):
        rng = torch.Generator().manual_seed(rank)
        found.append([math.sqrt(0.5) * each + torch.randn(each.shape, generator=rng) for each in common])
    return found


def brought(gradients: Gradients, worker: int) -> torch.Tensor:
    """Return f[d], a worker's vector in the order of the engine's unit."""
    buffers = {tensor: torch.empty(each.shape[1:]) for tensor, each in gradients.measured.items()}
    gradients.write_(buffers, worker)
    return torch.cat([buffer.flatten() for buffer in [*buffers.values()][::-1]])


def test_drawn_gradients_are_like_the_measured() -> None:
    """Their size agrees, and so does what two workers, or the means of two islands of four, have in common."""
    named, _ = small()
    params = [param for _, param in named]
    gradients = of_ranks(params, measured(8))
    first, drawn = brought(gradients, 3), brought(gradients, 1000)
    assert torch.equal(first, torch.cat([each.flatten() for each in measured(8)[3][::-1]]))
    assert drawn.norm().item() == pytest.approx(first.norm().item(), rel=0.1)

    def alike(one: torch.Tensor, two: torch.Tensor) -> float:
        return torch.cosine_similarity(one, two, 0).item()

    assert alike(first, brought(gradients, 4)) == pytest.approx(1 / 3, abs=0.06)
    # Draws vary about the mean of eight measured: what these eight have in common by chance is common to all draws.
    assert alike(drawn, brought(gradients, 1001)) == pytest.approx((0.5 + 1 / 8) / 1.5, abs=0.06)
    means = gradients.islands(4)
    four = torch.stack([brought(gradients, rank) for rank in range(4, 8)]).mean(0)
    torch.testing.assert_close(brought(means, 1), four)
    assert alike(brought(means, 50), brought(means, 51)) == pytest.approx(
        (0.5 + 1 / 8) / (0.5 + 1 / 8 + 1 / 4), abs=0.06
    )
    same = of_ranks(params, measured(1))
    assert same.alike
    assert torch.equal(brought(same, 0), brought(same, 7))


def test_one_worker_hears_the_others_as_in_a_group() -> None:
    """An ask answered from its senders' asks gives the first worker's answer among all; a sum is unchanged."""
    rng = torch.Generator().manual_seed(0)

    def octets(*shape: int) -> torch.Tensor:
        return torch.randint(256, shape, dtype=torch.uint8, generator=rng)

    words = [Broadcast(octets(10), 2).carrying(rank == 1, 5, 4, rank) for rank in range(4)]
    kinds: list[list[Ask]] = [
        [AllGather(octets(5)) for _ in range(4)],
        [AllToAll(octets(4, 3)) for _ in range(4)],
        [Broadcast(octets(5), 3) for _ in range(4)],
        [ask for ask in words if ask is not None],
        [among(AllGather(octets(5)), Axis(2, 2)) for _ in range(4)],
    ]
    for asks in kinds:
        assert len(asks) == 4
        sent = [asks[rank] for rank in asks[0].senders(4)]
        assert torch.equal(asks[0].alone(4, sent), asks[0].answers(asks)[0])
    assert list(AllReduce(torch.ones(3)).senders(4)) == []


@pytest.mark.parametrize("spec", ["ef(topk(density=0.1))", "ef(uniontopk(density=0.1))", "uniontopk(density=0.1)"])
@pytest.mark.parametrize("size", [8, 24])
def test_one_worker_stands_for_workers_that_select_otherwise(spec: str, size: int) -> None:
    """The first step's bytes are those of a rehearsal of all workers, each with its own memory."""
    named, _ = small()
    gradients = of_ranks([param for _, param in named], measured(8))
    work = scale.work_of(spec, named, measured(8), size, 2.0**30)
    assert not work.refusal
    (course,) = work.courses
    kinds, _, each = whole(spec, size, 2_882_880, [brought(gradients, rank) for rank in range(size)])
    assert [ask.kind for ask in course.asks] == kinds
    # A later step, whose residual and union are a little different.
    assert [ask.traffic for ask in course.asks] == pytest.approx(each, rel=0.15)
    if "union" in spec:
        d = sum(param.numel() for _, param in named)
        alone = scale.work_of(spec, named, measured(1), size, 2.0**30).courses[0]
        most = 2 * (size - 1) / size * 4 * d * (1 - 0.9**size)  # of independent gradients
        assert 2 * alone.asks[-1].traffic < course.asks[-1].traffic < most


@pytest.mark.parametrize("spec", ["ef(oktopk(density=0.1))", "ef(deft(density=0.1))", "deft(density=0.1)"])
def test_families_share_a_memory_and_bring_their_gradients(spec: str) -> None:
    """Of 16 workers whose work depends on the rank two neighbours bring the same, as in a rehearsal of all of them."""
    named, _ = small()
    gradients = of_ranks([param for _, param in named], measured(8))
    exchange, (unit,) = Guard(gw.parse(spec)), make_units(named[::-1], Guard(gw.parse(spec)), 2.0**30)
    crew = Crew(unit, exchange, 16, alike=False)
    assert crew.shares
    assert [crew.gradient_rank(number) for number in range(16)] == [rank for rank in range(8) for _ in range(2)]
    buffers = {tensor: torch.empty(each.shape[1:]) for tensor, each in gradients.measured.items()}
    sent, course = unit_step(exchange, crew, gradients, [buffers], 2_882_880, 0, 16)
    kinds, _, each = whole(spec, 16, 2_882_880, [brought(gradients, rank // 2) for rank in range(16)])
    assert [ask.kind for ask in course.asks] == kinds
    assert [ask.traffic for ask in course.asks] == each
    for one in sent:
        torch.testing.assert_close(one.mean.dense(), sent[0].mean.dense())


@pytest.mark.parametrize("exchange", ["ef(topk(density=0.1))", "ef(uniontopk(density=0.1))", "mean"])
def test_local_steps_are_rehearsed_with_other_ways_to_go(exchange: str) -> None:
    """Workers that move apart select different values, so the union grows."""
    named, _ = small()
    method = f"local(every=10, exchange='{exchange}')"
    same, apart = (scale.work_of(method, named, measured(ranks), 16, 2.0**30) for ranks in (1, 8))
    assert (same.refusal, apart.refusal) == ("", "")
    assert [ask.kind for ask in same.courses[0].asks] == [ask.kind for ask in apart.courses[0].asks]
    more = apart.courses[0].asks[-1].traffic / same.courses[0].asks[-1].traffic
    assert more > 2 if "union" in exchange else more == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": "mpl"}, "did you mean 'mlp'"),
        ({"methods": ("ef(tokp(0.1))",)}, "did you mean 'topk'"),
        ({"methods": ("fp16",)}, "fp16 cannot be rehearsed"),
        ({"methods": ("none",)}, "none cannot be rehearsed"),
        ({"methods": ("mean", "mean")}, "names every method once"),
        ({"sizes": (1,)}, "between 2 and 4096, got 1"),
        ({"rates": ("fast",)}, "got 'fast'"),
        ({"island": 8, "sizes": (12,)}, "islands of 8 are not filled by 12 workers"),
        ({"latency": math.nan}, "latency must be a number of seconds"),
        ({"bucket_mb": 0.0}, "bucket_mb must be positive"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ScalePlan(**arguments)


OWN = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 4)), lambda model: model(torch.ones(2, 20)).square().mean()
"""


def test_the_command_says_who_is_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scaled.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    methods = ("dense", "ef(deft(density=0.1))", "islands(mean, ef(topk(density=0.1)), size=4)", "local(every=10)")
    options = [word for method in methods for word in ("--method", method)]
    arguments = ["scale", "--model", "scaled:make", *options, "--workers", "2,8", "--rate", "1mbit"]
    ended = CliRunner().invoke(app, [*arguments, "--compute-ms", "2", "--output", "out.json"])
    assert ended.exit_code == 0, ended.output
    assert "scaled:make, 8 workers, 1mbit, 2.0 ms of compute" in ended.output
    assert "the fastest method, and its step in ms" in ended.output
    assert max(len(line) for line in ended.output.splitlines()[:-1] if not line.startswith("(")) <= 80
    sheet = scale.Forecast.from_json((tmp_path / "out.json").read_text())
    assert [work.size for work in sheet.works] == [2, 8] * 4
    assert "multiple of 4" in " ".join(ended.output.split())
    assert f"(1) {methods[2]}" in ended.output  # too long for a row
    refused = next(work for work in sheet.works if work.method == methods[2] and work.size == 2)
    assert "multiple of 4" in refused.refusal
    assert math.isinf(next(p for p in scale.predictions(sheet, "1mbit", 2) if p.work is refused).step)
    for size in (2, 8):
        steps = [p.step for p in scale.predictions(sheet, "1mbit", size)]
        assert steps == sorted(steps)
        assert scale.best(sheet, "1mbit", size).step == steps[0] >= 0.002


@pytest.mark.parametrize("workers", ["1", "two", "2,,4", "99999"])
def test_the_command_refuses_other_numbers(workers: str) -> None:
    ended = CliRunner().invoke(app, ["scale", "--workers", workers])
    assert isinstance(ended.exception, ValueError)
    assert "--workers takes whole numbers from 2 to 4096" in str(ended.exception)


class Reached:
    """An event of a GPU that does not exist: it must be waited for before it tells its milliseconds."""

    at = 0.0

    def record(self) -> None:
        Reached.at += 250.0
        self.stamp, self.waited = Reached.at, False

    def synchronize(self) -> None:
        self.waited = True

    def elapsed_time(self, after: Reached) -> float:
        assert after.waited
        return after.stamp - self.stamp


def test_moments_are_taken_by_the_clock_of_the_device() -> None:
    events = Events(Reached)
    before, _, after = (events.now() for _ in range(3))
    assert events.seconds(before, after) == 0.5
    assert isinstance(stamps(torch.device("cuda")), Events)
    wall = stamps(torch.device("cpu"))
    started = wall.now()
    assert 0 <= wall.seconds(started, wall.now()) < 60
