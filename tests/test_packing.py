"""Compiled twins of packing and rounding give the references' bytes; classes contract; uniforms are uniform."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradwire as gw
from gradwire import kernels
from gradwire.kernels import compiled, packing, splitmix
from gradwire.wire import classes, index, levels, trits, values

SIZES = [0, 1, 2, 5, 7, 8, 9, 63, 64, 65, 1000, 1279, 1280, 1281, 5003]
SHAPES = [*[(d,) for d in SIZES], (3, 0), (3, 1), (3, 67), (2, 2, 1283)]


@contextmanager
def plain() -> Iterator[None]:
    """Run without Numba."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "warm_up", lambda: False)
        yield


@pytest.fixture(scope="module", autouse=True)
def any_length() -> Iterator[None]:
    """Let the compiled loops serve vectors of any length."""
    pytest.importorskip("numba")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "LONG", 0)
        patch.setattr(compiled, "SHORT", 0)
        yield


def same(call: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Return what a call gives, after comparing it bit for bit with the call without Numba."""
    fast = call()
    with plain():
        slow = call()
    assert (fast.dtype, fast.shape) == (slow.dtype, slow.shape)
    bits = {torch.float32: torch.int32, torch.float64: torch.int64}.get(fast.dtype, fast.dtype)
    assert torch.equal(fast.contiguous().view(bits), slow.contiguous().view(bits))
    return fast


def vector(shape: tuple[int, ...], kind: str, seed: int = 0) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    special = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 1e-39, 2.0**-126, -3.4e38, 2.0**127, 1.0, -1.0])
    if kind == "ends" and x.shape[-1] > 0:
        x = special[(x.abs() * 1e3).long() % len(special)]
    if kind == "ties":
        x = (2 * x).round()
    if kind == "zeros":
        x = 0.0 * x
    return x


KINDS = ["normal", "ends", "ties", "zeros"]


def turn(d: int = 1) -> gw.Turn:
    return gw.Turn(0, 1, 0, gw.Layout(["x"], [(d,)]), seed=11)


# Uniforms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("key", [0, 1, 2**63 - 1, -5, 2**62 + 12345])
def test_uniforms_are_splitmix_however_they_are_drawn(key: int, dtype: torch.dtype) -> None:
    bits = {torch.float32: 24, torch.float64: 53}[dtype]
    drawn = same(lambda: kernels.uniforms(key, (60, 50), dtype))
    assert torch.equal(drawn, kernels.uniforms(key, (3000,), dtype).view(60, 50))
    assert torch.equal(drawn.flatten()[:7], kernels.uniforms(key, (7,), dtype))
    assert torch.equal(drawn.flatten(), splitmix.stream(torch.tensor(key), 3000, bits).to(dtype) * 2.0**-bits)
    assert kernels.uniforms(key, (0, 4), dtype).shape == (0, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniforms_are_uniform(dtype: torch.dtype) -> None:
    """Kolmogorov and Smirnov's sqrt(m) sup |F_m - F| exceeds 2.2 for one key in 8000; chi-square of
    1024 bins; pairs.
    """
    m = 1 << 18
    drawn = kernels.uniforms(2026, (m,), dtype).double()
    place = torch.arange(m, dtype=torch.float64) / m
    assert float((drawn.sort().values - place).abs().max()) * math.sqrt(m) < 2.2
    for bins in ((drawn * 1024).long(), (drawn[::2] * 32).long() * 32 + (drawn[1::2] * 32).long()):
        expected = len(bins) / 1024
        chi = float(((torch.bincount(bins, minlength=1024) - expected) ** 2 / expected).sum())
        assert abs(chi - 1023) < 5 * math.sqrt(2 * 1023)


# Packing


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7, 8, 9, 13, 24, 31, 32, 33, 61, 62])
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_numbers(shape: tuple[int, ...], width: int) -> None:
    x = torch.randint(0, 2**width, shape, generator=torch.Generator().manual_seed(width))
    if x.numel():
        x.view(-1)[0] = 2**width - 1
    wire = same(lambda: packing.pack(x, width))
    assert torch.equal(same(lambda: packing.unpack(wire, width, shape[-1])), x)
    wide = torch.cat([wire, wire], -1)[..., : wire.shape[-1]]  # rows that do not lie one after the other
    assert torch.equal(packing.unpack(wide, width, shape[-1]), x)


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_flags(shape: tuple[int, ...]) -> None:
    flags = (vector(shape, "normal") > 0).byte()
    wire = same(lambda: packing.pack_flags(flags))
    assert torch.equal(same(lambda: packing.unpack_flags(wire, shape[-1])), flags)


# Indices


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 3000), st.data())
def test_indices_and_bytes_that_are_none(d: int, data: st.DataObject) -> None:
    """If some bytes are changed, there are the same indices or the same refusal as without Numba."""
    k, rows = data.draw(st.one_of(st.integers(0, d), st.integers(0, min(d, 20)))), data.draw(st.integers(1, 3))
    order = torch.rand(rows, d, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 2**31))))
    x = order.argsort(-1)[:, :k].sort(-1).values
    wire = same(lambda: index.encode(x, d))
    assert torch.equal(same(lambda: index.decode(wire, d, k)), x)
    if wire.numel():
        for _ in range(data.draw(st.integers(1, 3))):
            wire.view(-1)[data.draw(st.integers(0, wire.numel() - 1))] = data.draw(st.integers(0, 255))
        assert result(lambda: index.decode(wire, d, k)) == result_plainly(lambda: index.decode(wire, d, k))


@settings(deadline=None, max_examples=100)
@given(st.binary(min_size=0, max_size=80), st.integers(1, 400), st.integers(0, 60))
def test_any_bytes_are_indices_or_refused(empty_bytes: bytes, d: int, k: int) -> None:
    length = index.nbytes(d, min(k, d))
    wire = torch.tensor(list((empty_bytes + bytes(200))[:length]), dtype=torch.uint8)
    assert result(lambda: index.decode(wire, d, min(k, d))) == result_plainly(lambda: index.decode(wire, d, min(k, d)))


def result(call: Callable[[], torch.Tensor]) -> list[int] | str:
    try:
        return call().tolist()
    except ValueError as error:
        return str(error)


def result_plainly(call: Callable[[], torch.Tensor]) -> list[int] | str:
    with plain():
        return result(call)


def test_indices_beyond_32_bits() -> None:
    d = 1 << 45
    x = torch.tensor([0, 5, 2**33, 2**44 + 1, d - 1])
    wire = same(lambda: index.encode(x, d))
    assert torch.equal(same(lambda: index.decode(wire, d, 5)), x)


@pytest.mark.parametrize("bad", [[3, 2], [3, 3], [-1, 4], [5, 100]])
def test_indices_that_are_none_are_not_encoded(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="indices must increase and lie below d"):
        index.encode(torch.tensor([*bad]), 100)


# Rounding


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_natural_bytes(shape: tuple[int, ...], kind: str) -> None:
    x, key = vector(shape, kind), turn().key(shared=False)
    wire = same(lambda: values.encode(x, "natural", key))
    y = same(lambda: values.decode(wire, "natural", shape[-1]))
    assert torch.equal(same(lambda: values.decoded(x, "natural", turn())), y)
    any_bytes = torch.randint(0, 256, wire.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    same(lambda: values.decode(any_bytes, "natural", shape[-1]))


OPERATORS = [
    gw.compress.Dithering(1),
    gw.compress.Dithering(2, "inf"),
    gw.compress.Dithering(7),
    gw.compress.Dithering(9, 1.0),
    gw.compress.Dithering(20, "inf"),
    gw.compress.Dithering(63),
    gw.compress.Dithering(127),
    gw.compress.Dithering(128),
    gw.compress.NaturalDithering(1),
    gw.compress.NaturalDithering(3, "inf"),
    gw.compress.NaturalDithering(127, "inf"),
    gw.compress.Ternary(),
    gw.compress.Ternary(1.0),
    gw.compress.Natural(),
    gw.compress.ScaledSign(),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("operator", OPERATORS, ids=repr)
def test_bytes_of_operators(operator: gw.Compressor, shape: tuple[int, ...], kind: str) -> None:
    """The 2-norm and the mean are summed in float64 in another order, 1e-12 apart: for these seeds the float32 is the
    same.
    """
    x, d = vector(shape, kind), shape[-1]
    wire = same(lambda: operator.encode(x, turn()))
    assert wire.shape == (*shape[:-1], operator.nbytes(d))
    y = same(lambda: operator.decode(wire, d).dense())
    assert torch.equal(same(lambda: operator.apply(x, turn()).dense()), y)


@pytest.mark.parametrize("call", [result, result_plainly])
@pytest.mark.parametrize("shape", [(40,), (3, 1283)])
@pytest.mark.parametrize("s", [1, 2, 20, 100])
def test_bytes_that_are_no_levels(s: int, shape: tuple[int, ...], call: Callable[..., object]) -> None:
    d = shape[-1]
    wire = torch.full((*shape[:-1], levels.nbytes(s, d)), 255, dtype=torch.uint8)
    assert (
        call(lambda: gw.compress.Dithering(s).decode(wire, d).dense())
        == f"the bytes are not {d} levels between -{s} and {s}"
    )
    assert "take" in str(call(lambda: gw.compress.Dithering(s).decode(wire[..., 1:], d).dense()))


@pytest.mark.parametrize("call", [result, result_plainly])
@pytest.mark.parametrize("shape", [(40,), (3, 1283)])
def test_bytes_that_are_no_trits(shape: tuple[int, ...], call: Callable[..., object]) -> None:
    wire = torch.zeros((*shape[:-1], 4 + trits.nbytes(shape[-1])), dtype=torch.uint8)
    wire[..., -1] = 244
    refusal = call(lambda: gw.compress.Ternary().decode(wire, shape[-1]).dense())
    assert refusal == "bytes of five trits are below 243, got 244"


# Classes

CLASSES = ["bits4", "bits2"]


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_classes_are_the_definition_s(shape: tuple[int, ...], kind: str, name: values.Format) -> None:
    x, k = vector(shape, kind), shape[-1]
    wire = same(lambda: values.encode(x, name))
    assert wire.shape == (*shape[:-1], values.nbytes(name, k))
    y = same(lambda: values.decode(wire, name, k))
    assert torch.equal(values.decoded(x, name, turn()), y)
    assert torch.equal(values.decoded(x.double(), name, turn()), y.double())
    any_bytes = torch.randint(0, 127, wire.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    same(lambda: values.decode(any_bytes, name, k))
    for length in {0, wire.shape[-1] - 1} - {wire.shape[-1]}:
        with pytest.raises(ValueError, match=f"{k} values as {name} take"):
            values.decode(wire[..., :length], name, k)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100),
        max_size=60,
    ),
    st.sampled_from(CLASSES),
)
def test_classes_contract_by_delta_and_never_expand(numbers: list[float], name: values.Format) -> None:
    """|C(x) - x|^2 = |x|^2 - |C(x)|^2 <= (1 - delta) |x|^2."""
    x = torch.tensor(numbers)
    y = same(lambda: values.decoded(x, name, turn()))
    square, left = x.double().square().sum(), (y.double() - x.double()).square().sum()
    assert left <= (1 - values.delta(name, len(x))) * square * (1 + 1e-6) + 2.0**-140
    assert float(left) == pytest.approx(float(square - y.double().square().sum()), rel=1e-6, abs=1e-6 * float(square))
    assert bool((y * x >= 0).all())


@pytest.mark.parametrize("k", [10, 1000, 100_000])
@pytest.mark.parametrize(("name", "width"), [("bits4", 4), ("bits2", 2)])
def test_hard_vectors_come_close_to_delta(name: values.Format, width: int, k: int) -> None:
    """A spike and r values of its r-th part, which meet Kantorovich's bound, with some just below the threshold and
    zeros.
    """
    ratio, found = classes.RATIO[width], 1.0
    below = 0.99 * ratio ** (1 - classes.count(width))
    for share in (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0):
        x = torch.zeros(k + int(ratio))
        x[0], x[k:] = 1.0, 1.01 / ratio
        x[1 : 1 + int(share * (k - 1))] = below
        found = min(found, float(values.decoded(x, name, turn()).square().sum() / x.square().sum()))
    assert values.delta(name, k + int(ratio)) <= found <= 2 * values.delta(name, k)


def test_delta_of_classes_is_what_the_docs_say() -> None:
    assert [round(values.delta("bits4", k), 2) for k in (2, 100_000)] == [0.64, 0.64]
    assert [round(values.delta("bits2", k), 2) for k in (2, 100_000)] == [0.22, 0.04]


@pytest.mark.parametrize("name", CLASSES)
def test_classes_say_zeros_and_equal_magnitudes_exactly(name: values.Format) -> None:
    for x in (
        [],
        [0.0],
        [-0.0] * 9,
        [3.7],
        [-1e-45],
        [0.1, -0.1, 0.1],
        [0.0, 0.3, -0.3, 0.0],
        [3.4e38] * 3,
        [1.0, 5.0],
    ):
        assert torch.equal(same(lambda x=x: values.decoded(torch.tensor(x), name, turn())), torch.tensor(x))


def test_classes_are_no_unbiased_format() -> None:
    assert gw.compress.TopK(1.0, "bits4").omega(10) is None
    with pytest.raises(ValueError, match="randk promises to be unbiased and bits4 rounds with a bias"):
        gw.compress.RandK(0.1, "bits4")
    assert gw.compress.TopK(0.25, "bits4").delta(400) == pytest.approx(0.25 * values.delta("bits4", 100))


def test_fine_classes_say_most_of_what_topk_keeps() -> None:
    """Of the squares of the largest hundredth of normal values bits4 keeps 99.8 % and bits2 98.5 %."""
    x = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    kept = x[kernels.topk(x, 10_000)]
    shares = [float(values.decoded(kept, name, turn()).square().sum() / kept.square().sum()) for name in CLASSES]
    assert shares[0] > 0.998
    assert shares[1] > 0.985


# Thresholds


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", SIZES)
def test_passing(d: int, kind: str) -> None:
    x = vector((d,), kind)
    for least in (0.0, -1.0, 1e-45, 1e-50, 0.1, 0.5, 1.0, 2.5, 3.4e38, 1e39, math.inf, math.nan):
        found = same(lambda least=least: kernels.indices_above(x, least))
        assert torch.equal(found, (x.abs() >= least).nonzero().view(-1))
