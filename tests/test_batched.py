"""The batched transport gives what lockstep gives: exactly, or in distribution where workers draw numbers."""

from __future__ import annotations

import pytest
import torch
import zoo
from test_memory import xs

import gradwire as gw

POINT = torch.linspace(-1, 1, zoo.LAYOUT.d, dtype=torch.float64)
LOCKSTEP = ["deft", "exdyna", "micro", "oktopk", "sidco"]
BATCHED = [spec for spec in zoo.SPECS if not any(part in spec for part in LOCKSTEP)]
DRAWN = [spec for spec in BATCHED if any(word in spec for word in zoo.RANDOM) and "shared" not in spec]


def simulators(spec: str, n: int) -> tuple[gw.Simulator, gw.Simulator]:
    return gw.Simulator(spec, zoo.LAYOUT, n, seed=2), gw.Simulator(spec, zoo.LAYOUT, n, seed=2, batched=True)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("spec", BATCHED)
def test_the_law_and_the_bytes(spec: str, n: int) -> None:
    lockstep, batched = simulators(spec, n)
    for step in range(5):
        lockstep.step(xs(n, step), POINT)
        sent = batched.step(xs(n, step), POINT)
        torch.testing.assert_close(sent.mean, sent.own.mean(0), rtol=1e-9, atol=1e-12)
    # Coins of one's own fall otherwise in a batch, and so do the lengths of messages that depend on them.
    if "bernoulli" not in spec:
        for kind, entry in lockstep.ledger.entries.items():
            other = batched.ledger.entries[kind]
            assert (entry.calls, entry.bytes) == (other.calls, other.bytes)
            assert entry.traffic == pytest.approx(other.traffic, rel=1e-12)


@pytest.mark.parametrize("spec", [spec for spec in BATCHED if spec not in DRAWN])
def test_what_draws_nothing_of_its_own_is_equal(spec: str) -> None:
    """Within float64's rounding: sums over workers may be taken in another order."""
    lockstep, batched = simulators(spec, 3)
    for step in range(8):
        want, got = lockstep.step(xs(3, step), POINT), batched.step(xs(3, step), POINT)
        torch.testing.assert_close(got.mean, want.mean, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(got.own, want.own, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("spec", DRAWN)
def test_what_draws_is_equal_in_distribution(spec: str) -> None:
    """The mean after two steps over 120 seeds: first and second moment of its projections agree within 5 sigma."""
    seeds, layout = 120, gw.Layout(["w", "b"], [(3, 4), (3,)])
    directions = torch.randn(layout.d, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vectors = torch.randn(2, 3, layout.d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = []
    for batched in (False, True):
        sims = [gw.Simulator(spec, layout, 3, seed=seed, batched=batched) for seed in range(seeds)]
        last = [[sim.step(rows, POINT[: layout.d]).mean for rows in vectors][-1] for sim in sims]
        moments = torch.stack(last) @ directions
        found.append(torch.cat([moments, moments.square()], 1))
    sigma = ((found[0].var(0) + found[1].var(0)) / seeds).sqrt()
    assert bool(((found[0].mean(0) - found[1].mean(0)).abs() <= 5 * sigma + 1e-9).all())


@pytest.mark.parametrize("part", LOCKSTEP)
def test_who_runs_in_lockstep_says_so(part: str) -> None:
    with pytest.raises(ValueError, match=f"{part}'s .* runs in lockstep, not batched"):
        gw.Simulator(f"ef({part}(density=0.1))", zoo.LAYOUT, 2, batched=True).step(xs(2, 0))


def test_an_ask_without_a_row_for_every_worker_is_refused() -> None:
    async def talk() -> torch.Tensor:
        return await gw.AllReduce(torch.ones(4))

    with pytest.raises(ValueError, match=r"one row for each of 3 workers, got AllReduce\(float32\[4\]\)"):
        gw.batched(talk(), 3)
