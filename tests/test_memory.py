"""Memories: what they conserve, what they converge to, and their special cases."""

from __future__ import annotations

import pytest
import torch
import zoo

import gradwire as gw


def xs(n: int, step: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, zoo.LAYOUT.d, generator=torch.Generator().manual_seed(step), dtype=dtype)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("spec", [s for s in zoo.SPECS if s.startswith("ef(") and "decay=" not in s])
def test_ef_conserves(spec: str, n: int) -> None:
    """The sum of accumulators is n times the update plus the sum of residuals (SPEC of DEFT's outer loop)."""
    sim = gw.Simulator(spec, zoo.LAYOUT, n)
    errors = torch.zeros(n, zoo.LAYOUT.d, dtype=torch.float64)
    for step in range(6):
        accumulators = xs(n, step) + errors
        sent = sim.step(xs(n, step))
        errors = torch.stack([state["error"] for state in sim.state]).double()
        within = 1e-12 * (1 + accumulators.abs())
        if "dtype='bfloat16'" in spec:  # what is added, and what is left, each within a unit in the last place
            within += 2.0**-7 * (1 + 2.0**-7) * (accumulators.abs() + errors.abs())
        assert bool(((accumulators - sent.own - errors).abs() <= within).all())
        assert bool(((accumulators.sum(0) - n * sent.mean - errors.sum(0)).abs() <= within.sum(0)).all())


def decayed(n: int, steps: int, decay: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return means [steps, d] and errors [n, d] of Top-k of 6 with a decaying error, by its definition."""
    error, means = torch.zeros(n, zoo.LAYOUT.d, dtype=torch.float64), []
    for step in range(steps):
        a = decay * error + xs(n, step)
        own = torch.zeros_like(a).scatter(-1, indices := a.abs().topk(6).indices, a.gather(-1, indices))
        error = a - own
        means.append(own.mean(0))
    return torch.stack(means), error


SIX = f"topk(density={6.5 / zoo.LAYOUT.d}, values='float64')"
"""Top-k that keeps six of the layout's elements and rounds nothing."""


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("decay", [0.5, 0.95, 1.0])
def test_a_decaying_error_is_its_formula(decay: float, batched: bool) -> None:
    """a = decay e + x, send C(a), e = a - C(a) (SparseLoCo, arXiv:2508.15706, Algorithm 1)."""
    n, steps = 3, 12
    sim = gw.Simulator(f"ef({SIX}, decay={decay})", zoo.LAYOUT, n, batched=batched)
    got = torch.stack([sim.step(xs(n, step)).mean for step in range(steps)])
    errors = sim.state[0]["error"] if batched else torch.stack([state["error"] for state in sim.state])
    means, error = decayed(n, steps, decay)
    torch.testing.assert_close(got, means, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(errors, error, rtol=1e-12, atol=1e-12)


def test_a_decaying_error_loses_what_it_forgets() -> None:
    """The means and the errors together lack (1 - decay) of each error, which is not little."""
    n, steps, decay = 2, 20, 0.95
    sim, owed, lost = gw.Simulator(f"ef({SIX}, decay={decay})", zoo.LAYOUT, n), 0.0, 0.0
    for step in range(steps):
        lost = lost + (1 - decay) * sum(state["error"] for state in sim.state) if step else 0.0
        owed = owed + xs(n, step).sum(0) - n * sim.step(xs(n, step)).mean
    left = sum(state["error"] for state in sim.state)
    torch.testing.assert_close(owed, left + lost, rtol=1e-10, atol=1e-10)
    assert torch.linalg.vector_norm(lost) > 0.1 * torch.linalg.vector_norm(left)


def test_a_decaying_error_in_units_of_the_learning_rate_decays_alike() -> None:
    """With a power of two as learning rate the memory is bit for bit the one outside, times that rate."""
    outside, inside = (
        gw.Simulator(f"ef({SIX}, decay=0.9{more})", zoo.LAYOUT, 2) for more in ("", ", lr_in_memory=true")
    )
    for step in range(8):
        assert torch.equal(outside.step(xs(2, step)).mean, inside.step(xs(2, step), lr=0.125).mean)
    assert torch.equal(outside.state[1]["error"] * 0.125, inside.state[1]["error"])


@pytest.mark.parametrize("decay", [0, -0.5, 1.5, True, "'x'", "none"])
def test_a_decay_that_is_none_is_refused(decay: object) -> None:
    with pytest.raises(gw.SpecError, match=r"decay must lie in \(0, 1\], got"):
        gw.parse(f"ef(mean, decay={decay})")


def test_two_ways_to_forget_are_refused_together() -> None:
    with pytest.raises(gw.SpecError, match=r"forgets by beta or by decay, got beta=0.5 and decay=0.9"):
        gw.parse("ef(mean, beta=0.5, decay=0.9)")


def test_an_error_that_does_not_decay_names_no_decay() -> None:
    """Checkpoints store the repr, so an option at its default must not show."""
    assert repr(gw.parse("ef(mean, decay=1)")) == repr(gw.parse("ef(mean)")) == "EF(exchange=Mean())"
    assert repr(gw.parse("ef(mean, decay=0.95)")) == "EF(exchange=Mean(), decay=0.95)"


def test_ef_forgets_exactly_what_was_sent() -> None:
    """With float32 on the wire and in memory the residual of a sent value is exactly zero."""
    sim = gw.Simulator("ef(topk(density=0.1))", zoo.LAYOUT, 2)
    for step in range(4):
        sent = sim.step(xs(2, step, torch.float32))
        for worker in range(2):
            assert not sim.state[worker]["error"][sent.own[worker] != 0].any()


def shifts(sim: gw.Simulator) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([state["h"] for state in sim.state]), torch.stack([state["mean_h"] for state in sim.state])


@pytest.mark.parametrize(
    "spec", [s for s in zoo.SPECS if s.startswith(("diana(", "ef21(", "efbv(", "randdiana(", "shifted("))]
)
def test_the_mean_shift_is_the_mean_of_the_shifts_on_every_worker(spec: str) -> None:
    """After 30 steps in float64 they differ only by its rounding."""
    sim = gw.Simulator(spec, zoo.LAYOUT, 3)
    for step in range(30):
        sim.step(xs(3, step))
    h, mean_h = shifts(sim)
    assert torch.equal(mean_h[0], mean_h[1])
    torch.testing.assert_close(h.mean(0), mean_h[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("spec", ["diana(natural)", "ef21(topk(density=0.1))", "diana(randk(density=0.2))"])
def test_the_mean_shift_drifts_little_in_float32(spec: str) -> None:
    """In 1000 steps of float32 the drift, of order eps sqrt(steps), stays below a ten-thousandth of the shifts."""
    sim = gw.Simulator(spec, zoo.LAYOUT, 3)
    for step in range(1000):
        sim.step(xs(3, step, torch.float32))
    h, mean_h = shifts(sim)
    assert (h.mean(0) - mean_h[0]).norm() <= 1e-4 * h.mean(0).norm()


def test_ef21_is_follow_one_and_its_shift_is_what_it_says() -> None:
    layout = zoo.LAYOUT
    sim = gw.Simulator("ef21(topk(density=0.1))", layout, 2)
    assert sim.exchange == gw.memory.Shifted(gw.exchange.Gathered(gw.compress.TopK(0.1)), gw.memory.Follow(1.0))
    for step in range(5):
        sent = sim.step(xs(2, step))
        h, mean_h = shifts(sim)
        assert torch.equal(sent.own, h)
        assert torch.equal(sent.mean, mean_h[0])


def test_diana_with_nothing_compressed_is_the_mean() -> None:
    sim = gw.Simulator(gw.memory.DIANA(gw.exchange.Mean()), zoo.LAYOUT, 3)
    for step in range(4):
        torch.testing.assert_close(sim.step(xs(3, step)).mean, xs(3, step).mean(0), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(shifts(sim)[0], xs(3, step), rtol=1e-12, atol=1e-12)


def test_rand_diana_with_p_one_restarts_every_step() -> None:
    sim = gw.Simulator("randdiana(randk(density=0.1), p=1.0)", zoo.LAYOUT, 3)
    for step in range(3):
        sim.step(xs(3, step))
        assert torch.equal(shifts(sim)[0], xs(3, step))


def test_rand_diana_pays_for_a_restart_and_only_then() -> None:
    """The expected bytes a step are Rand-k's plus p times a dense vector; all workers share one coin."""
    layout = gw.Layout(["x"], [(1000,)])
    sim = gw.Simulator("randdiana(randk(density=0.1), p=0.25)", layout, 2)
    steps = 400
    for step in range(steps):
        sim.step(torch.randn(2, 1000, generator=torch.Generator().manual_seed(step)))
    entries = sim.ledger.entries
    assert entries["AllGather"].bytes == 2 * steps * gw.compress.RandK(0.1).nbytes(1000)
    restarts = entries["AllReduce"].bytes / (2 * 4000)
    assert abs(restarts / steps - 0.25) < 5 * (0.25 * 0.75 / steps) ** 0.5


def test_fixed_shifts_are_used_if_somebody_sets_them() -> None:
    """This is DCGD-STAR's ideal: if the h_i are the vectors themselves, nothing is left to send."""
    sim = gw.Simulator("shifted(randk(density=0.1), fixed())", zoo.LAYOUT, 2)
    sim.step(xs(2, 0))
    for worker, state in enumerate(sim.state):
        state["h"].copy_(xs(2, 1)[worker])
        state["mean_h"].copy_(xs(2, 1).mean(0))
    torch.testing.assert_close(sim.step(xs(2, 1)).mean, xs(2, 1).mean(0))


class Quadratic:
    """f_i(x) = (x - c_i)' A_i (x - c_i) / 2 in float64; workers differ, and gradients at the optimum
    are far from zero.
    """

    def __init__(self, n: int = 4, d: int = 40) -> None:
        rng = torch.Generator().manual_seed(5)
        self.A = torch.empty(n, d, dtype=torch.float64).uniform_(0.5, 2.0, generator=rng)
        self.c = 3 * torch.randn(n, d, generator=rng, dtype=torch.float64)
        self.n, self.d = n, d
        self.best = (self.A * self.c).mean(0) / self.A.mean(0)
        self.L, self.L_max = self.A.mean(0).max().item(), self.A.max().item()

    def error(self, spec: str, step_size: float, rounds: int) -> float:
        """Return |x - x*|^2 / |x0 - x*|^2 after that many rounds of gradient descent through the exchange."""
        sim = gw.Simulator(spec, gw.Layout(["x"], [(self.d,)]), self.n)
        x = torch.zeros(self.d, dtype=torch.float64)
        start = (x - self.best).square().sum()
        for _ in range(rounds):
            x = x - step_size * sim.step(self.A * (x - self.c)).mean
        return ((x - self.best).square().sum() / start).item()


QUADRATIC = Quadratic()
OMEGA = 3.0  # Rand-k with k = d / 4


@pytest.mark.parametrize("spec", ["diana(randk(density=0.25))", "randdiana(randk(density=0.25))"])
def test_diana_and_rand_diana_reach_the_optimum(spec: str) -> None:
    """They converge linearly to 1e-20 with the theorems' step, 1 / (L + 6 omega L_max / n), and Rand-DIANA with M = 4
    omega / (n p) as well (SPEC T3, T4: Mishchenko et al. 2019; Shulgin and Richtárik 2022).
    """
    step_size = 1 / (QUADRATIC.L + 6 * OMEGA * QUADRATIC.L_max / QUADRATIC.n)
    assert QUADRATIC.error(spec, step_size, 1000) < 1e-20


def test_ef21_reaches_the_optimum() -> None:
    """Richtárik et al. 2021, Theorem 1: step 1 / (L + L~ sqrt(beta / theta)), L~ the root mean square of the L_i."""
    delta = 0.25
    root = (1 - delta) ** 0.5 / (1 - (1 - delta) ** 0.5)
    mean_square = QUADRATIC.A.amax(1).square().mean().sqrt().item()
    assert QUADRATIC.error("ef21(topk(density=0.25))", 1 / (QUADRATIC.L + mean_square * root), 1500) < 1e-20


def test_plain_randk_stalls_where_they_do_not() -> None:
    """DCGD with its own step 1 / (L + 2 omega L_max / n) stops in a neighbourhood (SPEC T1)."""
    step_size = 1 / (QUADRATIC.L + 2 * OMEGA * QUADRATIC.L_max / QUADRATIC.n)
    assert QUADRATIC.error("randk(density=0.25)", step_size, 1000) > 1e-4


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ef(randk(density=0.1))", "ef needs a contractive operator"),
        ("ef(sharedrandk(density=0.1))", "ef needs a contractive operator"),
        ("ef(ef(topk(density=0.1)))", "no memory inside another"),
        ("diana(topk(density=0.1))", "use ef21"),
        ("diana(deft(density=0.1))", "use ef21"),
        ("shifted(topk(density=0.1), follow(alpha=0.5))", "use ef21"),
        ("ef21(randk(density=0.1))", "scaled"),
        ("randdiana(topk(density=0.1))", "use ef21"),
        ("diana(ef(topk(density=0.1)))", "unbiased"),
    ],
)
def test_wrong_pairings_are_refused_with_what_to_use_instead(spec: str, message: str) -> None:
    with pytest.raises(gw.SpecError, match=message):
        gw.parse(spec)


def test_an_alpha_beyond_the_theory_is_refused_when_the_dimension_is_known() -> None:
    exchange = gw.memory.DIANA(gw.exchange.Gathered(gw.compress.RandK(0.1)), alpha=0.5)
    with pytest.raises(ValueError, match=r"alpha must be at most 1 / \(1 \+ omega\) = 0.1 .* got 0.5"):
        exchange.init(gw.Layout(["x"], [(100,)]))


def test_what_contracts_only_in_larger_dimensions_is_refused_in_small_ones() -> None:
    """randk(density=0.6) keeps 1 of 3, so omega = 2, which EF would amplify without end."""
    with pytest.raises(ValueError, match="may expand a vector of 3 elements"):
        gw.parse("ef(randk(density=0.6))").init(gw.Layout(["x"], [(3,)]))


def test_a_bare_compressor_is_refused_by_the_constructors() -> None:
    with pytest.raises(TypeError, match="gathered"):
        gw.memory.EF(gw.compress.TopK(0.1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="gathered"):
        gw.memory.EF21(gw.compress.TopK(0.1))  # type: ignore[arg-type]
