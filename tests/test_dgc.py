"""DGC compared with the paper's pseudo-code, what it conserves and forgets, and the warm-up of its density."""

from __future__ import annotations

import itertools

import pytest
import torch
import zoo
from test_memory import xs
from torch import Tensor

import gradwire as gw
from gradwire.kernels import reference
from gradwire.transport import batched

D = zoo.LAYOUT.d


def of(sim: gw.Simulator, name: str) -> Tensor:
    return torch.stack([state[name] for state in sim.state])


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("clip", [None, 2.0, 1e6])
def test_it_is_the_papers_pseudo_code(n: int, clip: float | None) -> None:
    """Algorithms 1 and 2 with plain tensors: clip, u, v, mask, send, forget. float32 is sent without loss."""
    spec = f"dgc(topk(density=0.02), momentum=0.8{'' if clip is None else f', clip={clip}'})"
    sim = gw.Simulator(spec, zoo.LAYOUT, n)
    u, v, k = torch.zeros(n, D), torch.zeros(n, D), int(0.02 * D)
    for step in range(8):
        g = xs(n, step, torch.float32)
        sent = sim.step(g)
        if clip is not None:
            g = g * (clip / n**0.5 / g.norm(dim=1, keepdim=True)).clamp(max=1)
        u = 0.8 * u + g
        v = v + u
        mask = torch.zeros(n, D, dtype=torch.bool)
        for worker in range(n):
            mask[worker, reference.topk(v[worker], k)] = True
        said = torch.where(mask, v, 0)
        u, v = torch.where(mask, 0, u), torch.where(mask, 0, v)
        torch.testing.assert_close(sent.mean, said.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(of(sim, "u"), u, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(of(sim, "v"), v, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "spec",
    [
        "dgc(topk(density=0.05))",
        "dgc(topk(density=0.05, values='natural'))",
        "dgc(deft(density=0.05), momentum=0.5)",
        "dgc(oktopk(density=0.05))",
        "dgc(globaltopk(density=0.05))",
        "dgc(hardthreshold(level=0.5))",
        "dgc(sidco(density=0.05))",
        "dgc(powersgd(rank=2))",
        "dgc(warmup(topk(density=0.02), steps=3))",
    ],
)
def test_what_is_owed_is_conserved(spec: str) -> None:
    """With every exchange, also if the wire rounds, the old v plus the new u is the new v plus what was sent."""
    sim = gw.Simulator(spec, zoo.LAYOUT, 3)
    u, v = torch.zeros(3, D, dtype=torch.float64), torch.zeros(3, D, dtype=torch.float64)
    momentum = 0.5 if "momentum" in spec else 0.9
    for step in range(6):
        sent = sim.step(xs(3, step))
        u = momentum * u + xs(3, step)
        torch.testing.assert_close(v + u, of(sim, "v") + sent.own, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close((v + u).sum(0), of(sim, "v").sum(0) + 3 * sent.mean, rtol=1e-10, atol=1e-10)
        said = sent.own != 0
        assert not of(sim, "u")[said].any()
        torch.testing.assert_close(of(sim, "u")[~said], u[~said], rtol=1e-12, atol=1e-12)
        u, v = of(sim, "u").clone(), of(sim, "v").clone()


def test_a_sparse_message_says_something_also_where_it_says_zero() -> None:
    """A value may be zero at a coordinate that another worker has chosen; sending it clears the momentum there too."""
    memory, layout = gw.memory.DGC(gw.exchange.Gathered(gw.compress.TopK(1.0)), momentum=0.5), gw.Layout(["w"], [(2,)])
    state = memory.init(layout)
    state["u"].copy_(torch.tensor([1.0, 1.0]))
    state["v"].copy_(torch.tensor([-0.5, 0.0]))
    gw.lockstep([memory(torch.zeros(2), state, gw.Turn(0, 1, 0, layout))])
    assert state["u"].tolist() == [0, 0]
    assert state["v"].tolist() == [0, 0]


def test_what_is_said_at_every_step_has_no_momentum() -> None:
    sim = gw.Simulator("dgc(mean)", zoo.LAYOUT, 3)
    for step in range(4):
        torch.testing.assert_close(sim.step(xs(3, step)).mean, xs(3, step).mean(0), rtol=1e-12, atol=1e-12)


def test_without_momentum_it_is_error_feedback() -> None:
    dgc = gw.Simulator("dgc(topk(density=0.05), momentum=0)", zoo.LAYOUT, 3)
    ef = gw.Simulator("ef(topk(density=0.05))", zoo.LAYOUT, 3)
    for step in range(6):
        assert torch.equal(dgc.step(xs(3, step)).mean, ef.step(xs(3, step)).mean)
        assert torch.equal(of(dgc, "v"), of(ef, "error"))


def test_what_is_said_late_is_said_with_its_momentum() -> None:
    """A steady gradient of 1, sent after T steps, brings the sum of the momenta, and then starts again."""
    layout = gw.Layout(["w"], [(2,)])
    sim = gw.Simulator("dgc(topk(density=0.5), momentum=0.5)", layout, 1)
    said = [sim.step(torch.tensor([[3.0, 1.0]])).mean.tolist() for _ in range(3)]
    # Of the second: 1, then 1 + 1.5 = 2.5 against 3, then 2.5 + 1.75 = 4.25.
    assert said == [[3, 0], [3, 0], [0, 4.25]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 4])
def test_clipping_bounds_every_workers_vector(n: int, dtype: torch.dtype) -> None:
    g = torch.stack([scale * torch.ones(D) for scale in (1e-3, 1.0, 1e3, 0.0)][:n]).to(dtype)
    sim = gw.Simulator("dgc(mean, momentum=0, clip=2.0)", zoo.LAYOUT, n)
    own = sim.step(g).own.double()
    norms, most = g.double().norm(dim=1), 2.0 / n**0.5
    eps = 2 * torch.finfo(dtype).eps + 1e-13  # the latter for the norms' own rounding
    torch.testing.assert_close(own.norm(dim=1), norms.clamp(max=most), rtol=eps, atol=0)
    torch.testing.assert_close(own[norms <= most], g.double()[norms <= most], rtol=0, atol=0)


def test_clipping_a_batch_is_clipping_its_rows() -> None:
    memory, n = gw.parse("dgc(topk(density=0.1), clip=3.0)"), 3
    state = memory.init(zoo.LAYOUT, torch.float64, batch_shape=(n,))
    sim = gw.Simulator(memory, zoo.LAYOUT, n)
    for step in range(3):
        sent = batched(memory(xs(n, step), state, gw.Turn(slice(None), n, step, zoo.LAYOUT)), n)
        torch.testing.assert_close(sent.mean.dense(), sim.step(xs(n, step)).mean, rtol=1e-10, atol=1e-12)


def densities(warmup: gw.memory.Warmup, steps: int) -> list[float]:
    return [warmup.at(step).compressor.density for step in range(steps)]


def test_the_ramp_of_the_paper() -> None:
    """75, 93.75, 98.4375, 99.6 and 99.9 % of the values are left out (Lin et al. 2018, section 3.3)."""
    warmup = gw.memory.Warmup(gw.exchange.Gathered(gw.compress.TopK(0.001)), steps=400)
    assert densities(warmup, 401)[::100] == [0.25, 0.0625, 0.015625, 0.00390625, 0.001]
    assert [densities(warmup, 401).count(density) for density in (0.25, 0.0625, 0.015625, 0.00390625)] == [100] * 4


def test_a_factor_near_one_makes_stages_as_they_are_needed() -> None:
    """Specs in checkpoints reach the parser, so reading a spec must not take a billion stages."""
    warmup = gw.parse("ef(warmup(topk(density=0.01), steps=1000, factor=1.000000001))").exchange
    assert 3.2e9 < warmup.stages < 3.3e9
    assert warmup.delta(100) == 0.01
    assert densities(warmup, 3)[0] == 0.25
    assert 0.0499 < densities(warmup, 501)[-1] < 0.0501


@pytest.mark.parametrize(
    ("final", "start", "factor", "steps", "want"),
    [
        (0.0625, 0.25, 4, 3, [0.25, 0.25, 0.25, 0.0625]),  # a stage that is not above the final density is left out
        (0.1, 0.25, 4, 2, [0.25, 0.25, 0.1]),
        (0.1, 1, 2, 8, [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.1]),
        (0.1, 1, 2, 6, [1, 1, 0.5, 0.25, 0.25, 0.125, 0.1]),
        (0.1, 1, 2, 1, [1, 0.1]),  # fewer steps than stages: the highest are run
        (0.3, 0.25, 4, 5, [0.3, 0.3]),
    ],
)
def test_stages_share_the_steps(final: float, start: float, factor: float, steps: int, want: list[float]) -> None:
    assert (
        densities(gw.memory.Warmup(gw.exchange.Gathered(gw.compress.TopK(final)), steps, start, factor), len(want))
        == want
    )


RAMPED = [0.5, 0.5, 0.1, 0.02, 0.01, 0.01]


def test_every_stage_sends_its_own_bytes() -> None:
    sim = gw.Simulator("dgc(warmup(topk(density=0.01), steps=4, start=0.5, factor=5))", zoo.LAYOUT, 2)
    brought = [0]
    for step in range(6):
        sent = sim.step(xs(2, step))
        brought.append(sim.ledger.bytes)
        assert int((sent.own[0] != 0).sum()) == int(RAMPED[step] * D)
    sizes = [after - before for before, after in itertools.pairwise(brought)]
    assert sizes == [gw.compress.TopK(density).nbytes(D) for density in RAMPED]


@pytest.mark.parametrize("part", ["topk", "scaled(randk", "deft", "oktopk"])
def test_one_state_serves_all_stages(part: str) -> None:
    """Also an exchange that remembers the threshold of a denser stage sends at most twice a stage's values."""
    close = ")" * part.count("(")
    sim = gw.Simulator(f"ef(warmup({part}(density=0.02){close}, steps=6))", zoo.LAYOUT, 3)
    for step in range(8):
        sent = sim.step(xs(3, step))
        torch.testing.assert_close(sent.mean, sent.own.mean(0), rtol=1e-9, atol=1e-12)
        density = [0.25, 0.25, 0.25, 0.0625, 0.0625, 0.0625, 0.02, 0.02][step]
        assert int((sent.own[0] != 0).sum()) <= 2 * density * D


def test_a_ramp_has_the_weakest_constants_of_its_stages() -> None:
    warmup = gw.memory.Warmup(gw.exchange.Gathered(gw.compress.TopK(0.01)), steps=10)
    assert warmup.delta(1000) == gw.compress.TopK(0.01).delta(1000)
    assert warmup.omega(1000) is None
    warmup = gw.memory.Warmup(gw.exchange.Gathered(gw.compress.RandK(0.01)), steps=10)
    assert warmup.omega(1000) == gw.compress.RandK(0.01).omega(1000)
    assert warmup.delta(1000) is None  # a random tenth of a vector, scaled up, may expand


def test_a_density_is_found_wherever_it_lies() -> None:
    warmup = gw.parse("warmup(ef(chain(topk(density=0.01), scaled(ternary))), steps=2)")
    assert isinstance(warmup, gw.memory.Warmup)
    assert warmup.at(0) == gw.parse("ef(chain(topk(density=0.25), scaled(ternary)))")
    assert warmup.at(2) is warmup.exchange


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("dgc(randk(density=0.1))", "dgc needs a contractive operator, and Gathered"),
        ("dgc(ef(topk(density=0.1)))", "put no memory inside another"),
        ("ef(dgc(topk(density=0.1)))", "ef needs a contractive operator"),
        ("dgc(warmup(randk(density=0.1), steps=3))", "dgc needs a contractive operator, and Warmup"),
        ("dgc(mean, momentum=1)", r"momentum must lie in \[0, 1\), got 1"),
        ("dgc(mean, momentum='much')", r"momentum must lie in \[0, 1\), got 'much'"),
        ("dgc(mean, clip=0)", "clip must be none or a positive number, got 0"),
        ("dgc(mean, clip=true)", "clip must be none or a positive number, got True"),
        ("dgc(mean, clip=1e999)", "clip must be none or a positive number, got inf"),
        ("warmup(mean, steps=3)", r"exactly one density, and Mean\(\) has 0"),
        ("warmup(induced(topk(density=0.1), randk(density=0.1)), steps=3)", "has 2"),
        ("warmup(topk(density=0.1), steps=0)", "steps must be a whole number and at least 1, got 0"),
        ("warmup(topk(density=0.1), steps=2.5)", "steps must be a whole number and at least 1, got 2.5"),
        ("warmup(topk(density=0.1), steps=3, start=0)", r"start must lie in \(0, 1\], got 0"),
        ("warmup(topk(density=0.1), steps=3, start=2)", r"start must lie in \(0, 1\], got 2"),
        ("warmup(topk(density=0.1), steps=3, factor=1)", "factor must be a number greater than 1, got 1"),
        ("warmup(topk(density=0.1), steps=3, factor='x')", "factor must be a number greater than 1, got 'x'"),
    ],
)
def test_bad_parameters_are_refused(spec: str, words: str) -> None:
    with pytest.raises(gw.SpecError, match=words):
        gw.parse(spec)


def test_a_bare_compressor_is_refused() -> None:
    for make in (gw.memory.DGC, lambda e: gw.memory.Warmup(e, 3)):
        with pytest.raises(TypeError, match=r"it becomes an exchange as gathered\(topk\(density=0.1\)\)"):
            make(gw.compress.TopK(0.1))
