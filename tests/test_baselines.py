"""The baselines of the DEFT paper, and error feedback with its options: what each selects, sends and remembers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import gradwire as gw
from gradwire import spec
from gradwire.exchange.sidco import BAND, fit_threshold
from gradwire.kernels import reference
from gradwire.wire import index

BASELINES = ["uniontopk", "globaltopk", "cltk", "sidco"]


def flat(d: int) -> gw.Layout:
    return gw.Layout(["x"], [(d,)])


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def chosen(x: Tensor, k: int) -> Tensor:
    """Return bool[n, d]: each row's k largest magnitudes."""
    return torch.zeros(x.shape, dtype=torch.bool).scatter_(-1, reference.topk(x, k), True)


def in_float32(x: Tensor) -> Tensor:
    """Round x as the wire does."""
    return x.float().to(x.dtype)


vectors = st.tuples(st.integers(1, 5), st.integers(1, 60), st.integers(0, 10**6)).map(
    # Whole numbers, so that there are zeros and ties.
    lambda case: torch.randint(-4, 5, case[:2], generator=torch.Generator().manual_seed(case[2])).double()
)
densities = st.sampled_from([0.01, 0.1, 0.3, 0.7, 1.0])

# ---- UnionTopK


@settings(deadline=None)
@given(vectors, densities)
def test_everybody_sends_what_anybody_selects(x: Tensor, density: float) -> None:
    n, d = x.shape
    union = chosen(x, max(1, int(density * d))).any(0)
    sent = gw.Simulator(gw.exchange.UnionTopK(density), flat(d), n).step(x)
    assert torch.equal(sent.own, x * union)
    torch.testing.assert_close(sent.mean, (x * union).mean(0))


def test_build_up_grows_with_the_workers_as_chance_would_have_it() -> None:
    """The union has k to n k indices; independent uniform supports cover 1 - (1 - k / d)^n of the vector (SPEC of
    DEFT's cost model).
    """
    d, density = 20_000, 0.01
    found = []
    for n in (1, 2, 4, 8, 16):
        sent = gw.Simulator(gw.exchange.UnionTopK(density), flat(d), n).step(normal(n, d))
        union = int((sent.own != 0).any(0).sum())
        assert 200 <= union <= 200 * n
        wanted = d * (1 - (1 - density) ** n)
        assert abs(union - wanted) <= 5 * math.sqrt(wanted * (1 - wanted / d)) or n == 1
        found.append(union)
    assert found == sorted(set(found))
    assert found[0] == 200


def test_workers_who_agree_build_nothing_up() -> None:
    x = normal(500).expand(8, -1)
    sent = gw.Simulator(gw.exchange.UnionTopK(0.1), flat(500), 8).step(x)
    assert int((sent.mean != 0).sum()) == 50


@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
def test_the_unions_contraction_is_top_ks(density: float) -> None:
    exchange = gw.exchange.UnionTopK(density)
    x = normal(3, 400)
    sent = gw.Simulator(exchange, flat(400), 3).step(x)
    assert exchange.delta(400) == gw.compress.TopK(density).delta(400)
    bound = (1 - exchange.delta(400)) * x.square().sum(-1)
    assert bool(((sent.own - x).square().sum(-1) <= bound + 1e-12).all())


# ---- GlobalTopK


@settings(deadline=None)
@given(vectors, densities)
def test_gtopk_keeps_the_largest_sums(x: Tensor, density: float) -> None:
    """Compared with a dense definition: of equal sums the lowest indices win, and sums of zero do not matter."""
    n, d = x.shape
    k = max(1, int(density * d))
    selected = x * chosen(x, k)
    total = selected.sum(0)
    sent = gw.Simulator(gw.exchange.GlobalTopK(density), flat(d), n).step(x)
    best = chosen(total[None], k)[0]
    torch.testing.assert_close(sent.mean, total * best / n)
    # A zero sum may be of values that cancel: then only what is large enough to be kept by its size is certain.
    alive = total != 0
    assert torch.equal(sent.own[:, alive], (selected * best)[:, alive])
    torch.testing.assert_close(sent.own.mean(0), sent.mean)


def test_of_equal_sums_the_lowest_places_are_kept() -> None:
    x = torch.tensor([[3.0, 0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 1.0, -3.0, 0.0]])
    sent = gw.Simulator(gw.exchange.GlobalTopK(0.4), flat(5), 2).step(x)  # sums 3, 0, 3, -3, 0 and two are kept
    assert sent.mean.tolist() == [1.5, 0.0, 1.5, 0.0, 0.0]
    assert sent.own.tolist() == [[3.0, 0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]]


def test_what_is_kept_but_not_selected_by_oneself_is_not_said() -> None:
    x = torch.tensor([[9.0, 4.0, 0.0], [5.0, 6.0, 0.0]])
    sim = gw.Simulator(gw.memory.EF(gw.exchange.GlobalTopK(0.34)), flat(3), 2)
    assert sim.step(x).mean.tolist() == [4.5, 0.0, 0.0]
    assert [state["error"].tolist() for state in sim.state] == [[0.0, 4.0, 0.0], [5.0, 6.0, 0.0]]


# ---- CLTK


@pytest.mark.parametrize("batched", [False, True])
def test_leaders_take_turns_and_select_for_all(batched: bool) -> None:
    n, d, k = 3, 200, 10
    sim = gw.Simulator(gw.exchange.CLTK(0.05), flat(d), n, batched=batched)
    for step in range(7):
        x = normal(n, d, seed=step)
        sent = sim.step(x)
        leads = chosen(x, k)[step % n]
        assert torch.equal(sent.own, x * leads)
        torch.testing.assert_close(sent.mean, (x * leads).mean(0))


# ---- what is sent


def traffic(name: str, n: int, d: int, density: float) -> tuple[gw.Ledger, int, int]:
    """Return the ledger of a step in float32, the bytes of one index block, and how many indices were summed."""
    sim = gw.Simulator(f"{name}(density={density})", flat(d), n)
    sent = sim.step(normal(n, d, dtype=torch.float32))
    return sim.ledger, index.nbytes(d, int(density * d)), int((sent.mean != 0).sum())


@pytest.mark.parametrize("n", [1, 2, 5])
def test_bytes_are_those_of_the_methods(n: int) -> None:
    """An all-gather receives the bytes once, an all-reduce twice, each less one's own share: SPEC's table of DEFT."""
    d, density, k = 3000, 0.02, 60
    ledger, block, union = traffic("uniontopk", n, d, density)
    assert ledger.entries["AllGather"].bytes == n * block
    assert ledger.entries["AllReduce"].bytes == n * 4 * union
    assert ledger.traffic == round((n - 1) * block + 2 * (n - 1) / n * 4 * union)
    ledger, block, _ = traffic("globaltopk", n, d, density)
    assert ledger.bytes == gw.compress.TopK(density).nbytes(d) == block + 4 * k
    assert ledger.traffic == (n - 1) * (block + 4 * k)
    assert ledger.entries["AllReduce"].calls == ledger.entries["Broadcast"].calls == 0
    ledger, block, support = traffic("cltk", n, d, density)
    assert support == k
    assert ledger.entries["Broadcast"].bytes == block  # the leader's, and nobody else's
    assert ledger.entries["AllReduce"].bytes == n * 4 * k
    assert ledger.traffic == round((n - 1) / n * block + 2 * (n - 1) / n * 4 * k)
    ledger, _, _ = traffic("sidco", n, d, density)
    assert ledger.entries["AllGather"].calls == 2 * n
    assert ledger.entries["AllReduce"].calls == ledger.entries["Broadcast"].calls == 0


# ---- SIDCo


def law(name: str, n: int, d: int, step: int) -> Tensor:
    """Return f64[n, d] from a distribution of gradients, by inversion, so that every version of torch
    draws the same.
    """
    u = torch.rand(n, d, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    match name:
        case "Laplace":
            return -u.log() * normal(n, d, seed=step).sign()
        case "normal":
            return normal(n, d, seed=step)
        case "Student":  # Bailey's polar method: three degrees of freedom, heavy tails
            angle = 2 * math.pi * torch.rand(n, d, generator=torch.Generator().manual_seed(10**6 + step))
            return (3 * (u ** (-2 / 3) - 1)).sqrt() * angle.cos()
        case _:  # layers of very different sizes
            return normal(n, d, seed=step) * torch.logspace(0, -3, d, dtype=torch.float64)


@pytest.mark.parametrize("density", [0.1, 0.01, 0.001])
@pytest.mark.parametrize("name", ["Laplace", "normal", "Student", "layers"])
def test_sidcos_count_is_about_k_once_its_stages_have_adapted(name: str, density: float) -> None:
    """The count is within 30 % of k for every distribution and density; one stage misses k by a factor of up to 30."""
    n, d = 2, 100_000
    sim = gw.Simulator(gw.exchange.SIDCo(density), flat(d), n)
    counts = [(sim.step(law(name, n, d, step)).own != 0).sum(-1).double().mean().item() for step in range(11)]
    assert sum(counts[-3:]) / 3 == pytest.approx(density * d, rel=0.3)
    if name == "layers" and density == 0.001:
        assert counts[0] > 20 * density * d


@pytest.mark.parametrize("name", ["Laplace", "normal", "Student", "layers"])
def test_sidcos_count_is_about_k_also_of_what_error_feedback_leaves(name: str) -> None:
    """Errors end at the threshold and follow no distribution; the count stays within 30 % of k on average."""
    d, n = 20_000, 2
    sim = gw.Simulator(gw.memory.EF(gw.exchange.SIDCo(0.01)), flat(d), n)
    counts = [(sim.step(law(name, n, d, step)).own != 0).sum(-1).double().mean().item() for step in range(40)]
    assert sum(counts[20:]) / 20 == pytest.approx(200, rel=0.3)


def test_one_stage_is_the_exponential_laws() -> None:
    x = normal(1000).abs()
    for k in (1, 30, 999):
        assert fit_threshold(x, k, 1) == pytest.approx(
            min(x.max().item(), x.mean().item() * math.log(1000 / k)), rel=1e-12
        )
    assert fit_threshold(x, 1000, 1) == 0.0


def test_two_stages_are_the_exponential_laws_of_the_peaks_over_the_first() -> None:
    x, k = normal(20_000).abs(), 200
    first = x.mean().item() * math.log(4)
    peaks = x[x >= first]
    wanted = first + (peaks.mean().item() - first) * math.log(len(peaks) / k)
    assert fit_threshold(x, k, 2) == pytest.approx(wanted, rel=1e-12)


def test_a_stage_more_is_asked_for_outside_the_band_only_and_by_all() -> None:
    n, d, density = 3, 50_000, 0.001
    sim = gw.Simulator(gw.exchange.SIDCo(density, stages=4), flat(d), n)
    before = 1
    for step in range(8):
        x = law("normal", n, d, step)
        count = (sim.step(x).own != 0).sum().item() / n
        after = [state["stages"].tolist() for state in sim.state]
        missed = abs(count / (density * d) - 1) > BAND
        assert after == [[min(4.0, before + missed)]] * n
        before = int(after[0][0])
    assert before in (3, 4)  # one stage finds 1 % of k in normal values, three are enough


def test_everybody_selects_by_a_threshold_of_ones_own() -> None:
    x = normal(2, 4000)
    x[1] *= 100
    sent = gw.Simulator(gw.exchange.SIDCo(0.05), flat(4000), 2).step(x)
    for row, own in zip(x, sent.own, strict=True):
        level = fit_threshold(row.abs(), 200, 1)
        assert torch.equal(own, in_float32(row * (row.abs() >= level)))


@pytest.mark.parametrize("stages", [1, 2, 10])
def test_inputs_without_a_law(stages: int) -> None:
    """Zeros and subnormals send nothing. Equal magnitudes are all sent, or evenly growing errors would never be."""
    d, k = 64, 4
    equal, tiny = torch.full((d,), 2.5), torch.full((d,), 1e-40)
    spike = torch.zeros(d).index_fill_(0, torch.tensor(5), 3e38)
    assert fit_threshold(torch.zeros(d), k, stages) == 0.0
    assert fit_threshold(torch.zeros(0), 0, stages) == 0.0
    assert fit_threshold(equal, k, stages) <= 2.5
    assert int((spike >= max(fit_threshold(spike, k, stages), 1e-38)).sum()) == 1
    sim = gw.Simulator(gw.exchange.SIDCo(0.07, stages=stages), flat(d), 1)
    for x, count in ((torch.zeros(d), 0), (equal, d), (spike, 1), (-equal, d), (tiny, 0)):
        sent = sim.step(x[None])
        assert int((sent.own != 0).sum()) == count
        assert sent.mean.isfinite().all()


def test_stages_that_do_not_fit_start_in_range() -> None:
    """Replicated state from elsewhere that is out of range becomes the nearest value in range."""
    x = normal(1, 2000)
    for stored, meant in ((-3.0, 1), (0.0, 1), (99.0, 10)):
        sim = gw.Simulator(gw.exchange.SIDCo(0.05), flat(2000), 1)
        sim.start(x)
        sim.state[0]["stages"].fill_(stored)
        level = fit_threshold(x[0].abs(), 100, meant)
        assert torch.equal(sim.step(x).own != 0, x.abs() >= level)


@pytest.mark.parametrize("stages", [0, -1, 2.0, True, "2", None])
def test_a_number_of_stages_that_is_none_is_refused(stages: object) -> None:
    with pytest.raises(ValueError, match="stages must be a whole number and at least 1, got"):
        gw.exchange.SIDCo(0.1, stages)  # type: ignore[arg-type]


# ---- all of them


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("d", [1, 2, 3, 50, 700])
def test_error_feedback_conserves_also_where_a_worker_has_nothing(name: str, d: int) -> None:
    """The sum of accumulators is n times the update plus the sum of errors, also with a worker of zeros, in float64,
    over ten steps.
    """
    n = 4
    sim = gw.Simulator(f"ef({name}(density=0.05))", flat(d), n)
    errors = torch.zeros(n, d, dtype=torch.float64)
    for step in range(10):
        x = normal(n, d, seed=step)
        x[step % n] = 0.0
        sent = sim.step(x)
        accumulated, errors = x + errors, torch.stack([state["error"] for state in sim.state])
        torch.testing.assert_close(accumulated.sum(0), n * sent.mean + errors.sum(0), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(accumulated, sent.own + errors, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["uniontopk", "globaltopk", "cltk"])
def test_alone_they_are_top_k(name: str) -> None:
    x = normal(1, 300)
    alone = gw.Simulator(f"{name}(density=0.1)", flat(300), 1).step(x)
    torch.testing.assert_close(alone.mean, (x * chosen(x, 30))[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["uniontopk", "globaltopk", "cltk"])
def test_at_density_one_nothing_is_lost(name: str) -> None:
    x = in_float32(normal(3, 40))
    sim = gw.Simulator(f"ef({name}(density=1))", flat(40), 3)
    torch.testing.assert_close(sim.step(x).mean, x.mean(0))
    assert not any(state["error"].any() for state in sim.state)
    assert sim.exchange.omega(40) == 0.0


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("density", [0, 1.5, -0.1, True, "'much'"])
def test_a_density_that_is_none_is_refused(name: str, density: object) -> None:
    with pytest.raises(gw.SpecError, match=r"density must lie in \(0, 1\], got"):
        gw.parse(f"{name}(density={density})")


@pytest.mark.parametrize("name", BASELINES)
def test_biased_operators_go_with_error_feedback_and_not_with_diana(name: str) -> None:
    assert gw.parse(f"ef({name}(density=0.1))").delta(100) is None
    with pytest.raises(gw.SpecError, match="use ef21"):
        gw.parse(f"diana({name}(density=0.1))")


# ---- EF's options


def ef_in_words(n: int, d: int, steps: int, beta: float, k: int, lrs: list[float]) -> tuple[Tensor, Tensor]:
    """Return means [steps, d] and errors [n, d] of EF over UnionTopK by its definition, the error in
    units of lr * g.
    """
    memory, means = torch.zeros(n, d, dtype=torch.float64), []
    for step in range(steps):
        g, lr = normal(n, d, seed=step), lrs[step]
        a = memory / lr + g
        own = a * chosen(a, k).any(0)
        memory = lr * ((1 - beta) * memory / lr + beta * (a - own))
        means.append(own.mean(0))
    return torch.stack(means), memory


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0])
def test_the_low_pass_memory_is_its_formula(beta: float, inside: bool, batched: bool) -> None:
    n, d, steps = 3, 120, 12
    lrs = [0.3 / (1 + step) if inside else 1.0 for step in range(steps)]
    sim = gw.Simulator(
        gw.memory.EF(gw.exchange.UnionTopK(0.05), beta, lr_in_memory=inside), flat(d), n, batched=batched
    )
    got = torch.stack([sim.step(normal(n, d, seed=step), lr=lrs[step]).mean for step in range(steps)])
    errors = sim.state[0]["error"] if batched else torch.stack([state["error"] for state in sim.state])
    means, memory = ef_in_words(n, d, steps, beta, 6, lrs)
    torch.testing.assert_close(got, means, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(errors, memory, rtol=1e-9, atol=1e-12)


def test_beta_one_is_the_plain_memory_bit_for_bit() -> None:
    """In float32 a step is one addition and one subtraction in place, whatever the options' defaults are."""
    d, plain, error = 300, gw.Simulator("ef(topk(density=0.1))", flat(300), 1), torch.zeros(300)
    assert plain.exchange == gw.memory.EF(gw.exchange.Gathered(gw.compress.TopK(0.1)), beta=1, lr_in_memory=False)
    for step in range(20):
        g = normal(1, d, seed=step, dtype=torch.float32)
        error += g[0]
        own = plain.step(g).own[0]
        assert torch.equal(own, error * chosen(error[None], 30)[0])
        error -= own
        assert torch.equal(plain.state[0]["error"], error)


def test_a_memory_that_loses_nothing_has_nothing_to_remember() -> None:
    sim = gw.Simulator("ef(mean, beta=0.25)", flat(50), 2)
    for step in range(5):
        torch.testing.assert_close(sim.step(normal(2, 50, seed=step)).mean, normal(2, 50, seed=step).mean(0))
    assert max(state["error"].abs().max().item() for state in sim.state) < 1e-14


@pytest.mark.parametrize(("lr", "exact"), [(1.0, True), (0.125, True), (0.3, False)])
def test_at_a_constant_learning_rate_inside_is_outside(lr: float, exact: bool) -> None:
    """They are bit-equal if lr is a power of two, else equal up to rounding: in float64 1e-12 after 30 steps."""
    n, d = 3, 200
    outside, inside = (
        gw.Simulator(gw.memory.EF(gw.exchange.UnionTopK(0.05), lr_in_memory=way), flat(d), n) for way in (False, True)
    )
    for step in range(30):
        want, got = outside.step(normal(n, d, seed=step)).mean, inside.step(normal(n, d, seed=step), lr=lr).mean
        torch.testing.assert_close(got, want, rtol=0 if exact else 1e-10, atol=0 if exact else 1e-12)
    scaled = torch.stack([state["error"] for state in outside.state]) * lr
    torch.testing.assert_close(torch.stack([state["error"] for state in inside.state]), scaled, rtol=1e-10, atol=1e-12)


def algorithm_1(n: int, d: int, k: int, lrs: list[float]) -> tuple[Tensor, Tensor]:
    """Run the paper's outer loop with Top-k as the sparsifier, as written there. Returns the model and the errors."""
    x, e = torch.zeros(d, dtype=torch.float64), torch.zeros(n, d, dtype=torch.float64)
    for t, lr in enumerate(lrs):
        acc = e + lr * normal(n, d, seed=t)
        idx = chosen(acc, k).any(0).nonzero().view(-1)
        x[idx] -= acc[:, idx].sum(0) / n
        acc[:, idx] = 0.0
        e = acc
    return x, e


def test_inside_it_is_the_papers_algorithm_1_and_outside_it_is_not() -> None:
    """An unsent value keeps the learning rate at which it arose: after a decay by 10 it is worth ten times as much."""
    n, d, k = 3, 150, 8
    lrs = [0.5] * 10 + [0.05] * 10 + [0.005] * 10
    models = []
    for way in (True, False):
        sim = gw.Simulator(gw.memory.EF(gw.exchange.UnionTopK(k / d), lr_in_memory=way), flat(d), n)
        x = torch.zeros(d, dtype=torch.float64)
        for step, lr in enumerate(lrs):
            x -= lr * sim.step(normal(n, d, seed=step), lr=lr).mean
        models.append((x, torch.stack([state["error"] for state in sim.state])))
    want, errors = algorithm_1(n, d, k, lrs)
    torch.testing.assert_close(models[0][0], want, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(models[0][1], errors, rtol=1e-10, atol=1e-12)
    # Whatever is sent when, model and errors together are all gradients at their own learning rates; not so outside.
    owed = -sum(lr * normal(n, d, seed=step).mean(0) for step, lr in enumerate(lrs))
    torch.testing.assert_close(models[0][0] - models[0][1].mean(0), owed, rtol=1e-10, atol=1e-12)
    assert (models[1][0] - lrs[-1] * models[1][1].mean(0) - owed).norm() > 0.1 * owed.norm()


@pytest.mark.parametrize("lr", [None, 0.0, -0.1, math.nan, math.inf])
def test_a_learning_rate_that_is_none_is_refused_before_anything_changes(lr: float | None) -> None:
    sim = gw.Simulator("ef(topk(density=0.1), lr_in_memory=true)", flat(30), 2)
    sim.step(normal(2, 30), lr=0.1)
    kept = [state["error"].clone() for state in sim.state]
    with pytest.raises(ValueError, match=rf"lr_in_memory needs the step's learning rate, .* got {lr}"):
        sim.step(normal(2, 30), lr=lr)
    assert all(torch.equal(state["error"], error) for state, error in zip(sim.state, kept, strict=True))


@pytest.mark.parametrize("beta", [0, -0.5, 1.5, True, "'x'", "none"])
def test_a_beta_that_is_none_is_refused(beta: object) -> None:
    with pytest.raises(gw.SpecError, match=r"beta must lie in \(0, 1\], got"):
        gw.parse(f"ef(mean, beta={beta})")
    with pytest.raises(gw.SpecError, match="lr_in_memory must be true or false, got 'x'"):
        gw.parse("ef(mean, lr_in_memory='x')")


# ---- reprs


def test_checkpoints_and_figures_from_before_the_options_name_the_same_exchange() -> None:
    """Their strings are compared with a hook's repr, so an option at its default must not show."""
    saved = json.loads((Path(__file__).parents[1] / "docs" / "figures" / "link.json").read_text())
    strings = set(_exchanges(saved))
    assert "EF(exchange=Gathered(compressor=TopK(density=0.05, values='float32')))" in strings
    for words in strings:
        assert repr(gw.parse(words)) == words
    assert repr(gw.exchange.DEFT(0.01)) == "DEFT(density=0.01)"
    assert repr(gw.memory.EF(gw.exchange.DEFT(0.01))) == "EF(exchange=DEFT(density=0.01))"


def _exchanges(found: object) -> list[str]:
    """Return all strings under "exchange" in a nest that are the repr of one."""
    if isinstance(found, list):
        return [words for part in found for words in _exchanges(part)]
    if not isinstance(found, dict):
        return []
    here = [words for key, words in found.items() if key == "exchange" and isinstance(words, str) and "(" in words]
    return here + [words for part in found.values() for words in _exchanges(part)]


@pytest.mark.parametrize(
    ("exchange", "words"),
    [
        (gw.memory.EF(gw.exchange.CLTK(0.1), 0.5), "EF(exchange=CLTK(density=0.1), beta=0.5)"),
        (gw.memory.EF(gw.exchange.CLTK(0.1), lr_in_memory=True), "EF(exchange=CLTK(density=0.1), lr_in_memory=True)"),
        (gw.memory.EF(gw.exchange.SIDCo(1)), "EF(exchange=SIDCo(density=1.0, stages=10))"),
    ],
)
def test_options_that_are_set_show(exchange: gw.Exchange, words: str) -> None:
    assert repr(exchange) == words
    assert spec.parse(words) == exchange
