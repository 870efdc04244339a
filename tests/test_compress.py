"""Operators keep the promises of their constants: unbiased, variance omega, contraction delta, bytes."""

from __future__ import annotations

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

import gradwire as gw
from gradwire.compress.protocol import Ragged
from gradwire.testing import COMPRESSOR_LAWS, check_compressor


def turn(step: int = 0, d: int = 1) -> gw.Turn:
    return gw.Turn(0, 1, step, gw.Layout(["x"], [(d,)]), seed=3)


def draws(compressor: gw.Compressor, x: torch.Tensor, count: int) -> torch.Tensor:
    """Return f64[count, d]: that many applications, each with separate randomness."""
    rows = x.expand(count, -1)
    return compressor.decode(compressor.encode(rows, turn(d=len(x))), len(x)).dense().double()


@pytest.mark.parametrize("law", COMPRESSOR_LAWS)
@pytest.mark.parametrize("compressor", zoo.COMPRESSORS, ids=repr)
def test_every_operator_obeys(compressor: gw.Compressor, law: str) -> None:
    # d / k times a larger value may be beyond float32.
    largest = 3.0e35 if isinstance(compressor, gw.compress.RandK | gw.compress.Scaled) else 3.0e37
    check_compressor(compressor, laws=[law], largest=largest)


def test_randk_has_equality_for_every_vector() -> None:
    """SPEC of the field: E |Q(x) - x|^2 = (d / k - 1) |x|^2, here by counting all 4-subsets of 9 equally often."""
    x = torch.arange(1.0, 10.0, dtype=torch.float64)
    y = draws(gw.compress.RandK(4 / 9), x, 200_000)
    assert (y - x).square().sum(-1).mean() / x.square().sum() == pytest.approx(9 / 4 - 1, rel=5e-3)


@pytest.mark.parametrize("j", [-100, -3, 0, 90])
def test_natural_attains_one_eighth_at_four_thirds(j: int) -> None:
    """Horváth et al. 2019, Theorem 3: the worst case is |t| = 4/3 * 2^j."""
    x = torch.full((200_000,), 4 / 3 * 2.0**j, dtype=torch.float64)
    y = gw.compress.Natural().decode(gw.compress.Natural().encode(x, turn()), len(x)).dense().double()
    assert set((y / 2.0**j).tolist()) == {1.0, 2.0}
    assert ((y - x).square().mean() / x[0] ** 2).item() == pytest.approx(1 / 8, rel=0.02)


def test_topk_has_equality_for_equal_magnitudes() -> None:
    x = torch.ones(50)
    y = gw.compress.TopK(0.2).decode(gw.compress.TopK(0.2).encode(x, turn()), 50).dense()
    assert (y - x).square().sum() == pytest.approx((1 - 0.2) * 50)


def length(compressor: gw.Compressor, wire: torch.Tensor, d: int) -> int:
    """Return the length that a wire should have: the promised bytes, or the longest of ragged messages."""
    return compressor.length(wire, d) if isinstance(compressor, Ragged) else compressor.nbytes(d)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(zoo.COMPRESSORS), st.integers(0, 400), st.integers(0, 2**31), st.sampled_from(["1", "0", "mixed"])
)
def test_bytes_are_as_promised_and_decode_to_the_same_operator(c: gw.Compressor, d: int, seed: int, kind: str) -> None:
    x = torch.randn(d, generator=torch.Generator().manual_seed(seed))
    x = {"1": x, "0": torch.zeros(d), "mixed": x * (x > 0) * 1e-30}[kind]
    wire = c.encode(x, turn(seed, d))
    assert wire.dtype == torch.uint8
    assert wire.shape == (length(c, wire, d),)
    assert len(wire) <= c.nbytes(d)
    assert torch.equal(wire, c.encode(x, turn(seed, d)))  # pure: the turn decides
    decoded = c.decode(wire.clone(), d)
    assert torch.equal(decoded.dense(), c.decode(wire, d).dense())
    assert decoded.dense().shape == (d,)


@pytest.mark.parametrize("compressor", zoo.COMPRESSORS, ids=repr)
def test_other_lengths_are_refused_with_the_right_one(compressor: gw.Compressor) -> None:
    wire = compressor.encode(torch.randn(50), turn(d=50))
    longer = torch.nn.functional.pad(wire, (0, compressor.nbytes(50) + 1 - len(wire)))
    for wrong in (wire[:-1], longer):
        with pytest.raises(ValueError, match="take"):
            compressor.decode(wrong, 50)


def test_workers_draw_supports_of_their_own_and_shared_ones_agree() -> None:
    layout = gw.Layout(["x"], [(1000,)])
    xs = torch.ones(2, 1000)
    own = gw.Simulator("randk(density=0.1)", layout, 2).step(xs).own
    shared = gw.Simulator("sharedrandk(density=0.1)", layout, 2).step(xs).own
    assert not torch.equal(own[0], own[1])
    assert torch.equal(shared[0], shared[1])


def test_streams_of_randomness_are_independent() -> None:
    """Another step, rank, layout, seed or fork is another stream; a shared stream is the same for every rank."""
    base = turn(d=5)
    others = [
        turn(1, d=5),
        turn(d=6),
        base.fork("a"),
        base.fork("a").fork("a"),
        gw.Turn(1, 2, 0, base.layout, seed=3),
        gw.Turn(0, 1, 0, base.layout, seed=4),
        gw.Turn(0, 1, 0, gw.Layout(["y"], [(5,)]), seed=3),
    ]
    keys = [t.key(shared=False) for t in (base, *others)] + [base.key(shared=True)]
    assert len(set(keys)) == len(keys)
    assert gw.Turn(1, 2, 0, base.layout, 3).key(shared=True) == base.key(shared=True)


@pytest.mark.parametrize("density", [0, 1.5, -0.1, float("nan"), True, None, "0.1"])
@pytest.mark.parametrize("make", [gw.compress.TopK, gw.compress.RandK, gw.exchange.SharedRandK, gw.exchange.DEFT])
def test_a_density_out_of_range_is_refused(make: type, density: object) -> None:
    with pytest.raises(ValueError, match=r"density must lie in \(0, 1\], got"):
        make(density)


def test_wrong_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds with a bias"):
        gw.compress.RandK(0.1, "bfloat16")
    with pytest.raises(ValueError, match="values must be one of"):
        gw.compress.TopK(0.1, "int8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="biased"):
        gw.compress.Scaled(gw.compress.TopK(0.1))
