"""Fast twins give what the references give: ties, thresholds, dtypes, pieces in any order, with and without Numba."""

from __future__ import annotations

import ast
import itertools
import logging
import math
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwire import kernels
from gradwire.kernels import compiled, host, reference, sampling

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
Span = tuple[int, int]
LOAD = compiled.warm_up


@pytest.fixture(params=["numba", "numpy"], scope="module", autouse=True)
def loops(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run with the compiled loops and without, on vectors of any length."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numba":
            pytest.importorskip("numba")
            patch.setattr(compiled, "LONG", 0)
        else:
            patch.setattr(compiled, "warm_up", lambda: False)
        yield request.param


def vector(d: int, kind: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Return normal values, or values with many ties, with layers of very different scale, or at the ends of float32's
    range.
    """
    x = torch.randn(d, generator=torch.Generator().manual_seed(seed))
    if kind == "ties":
        x = (2 * x).round()
    if kind == "scales":
        x *= 10 ** torch.linspace(-6, 6, d)
    if kind == "zeros":
        x = x.sign() * 0.0
    if kind == "few":
        x = torch.where(x > 2, x, 0.0 * x)
    if kind == "tiny and huge":
        x = x.sign() * torch.where(x.abs() > 0.5, 3.4e38, 1e-45 * (9 * x).abs().round())
    if kind == "rising":
        x = x.abs().sort().values
    if kind == "bfloat16 widened":
        x = x.bfloat16().float()
    return x.to(dtype)


KINDS = ["normal", "ties", "scales", "zeros", "few", "tiny and huge", "rising", "bfloat16 widened"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 7, 64, 511, 512, 1000, sampling.LONG - 1, sampling.LONG, 3 * host.BLOCK + 17])
def test_top_is_the_reference(d: int, kind: str, dtype: torch.dtype) -> None:
    x = vector(d, kind, dtype)
    for k in sorted({0, 1, d // 1000, d // 100, d // 10, d // 4, d // 4 + 1, d // 2, d - 1, d}):
        assert torch.equal(kernels.topk(x, k), reference.topk(x, k)), k


def test_top_when_the_sample_misleads() -> None:
    """A sample of large elements only leads to a threshold that too few pass; they are selected again, with the same
    result.
    """
    d, k = 4 * host.BLOCK, 2000
    x = vector(d, "normal")
    sampling._sample(x).mul_(1000)
    assert len(host.indices_above(x.numpy(), float(sampling._threshold(x, k)))[0]) < k
    assert torch.equal(kernels.topk(x, k), reference.topk(x, k))


@pytest.mark.parametrize("d", [0, 5, 70_000])
def test_top_takes_strides_and_rows(d: int) -> None:
    x = vector(3 * d, "ties").view(d, 3)
    k = d // 50
    assert torch.equal(kernels.topk(x[:, 1], k), reference.topk(x[:, 1], k))
    assert torch.equal(kernels.topk(x.T, k), reference.topk(x.T, k))


@st.composite
def pieces(draw: st.DrawFn) -> tuple[int, list[Span], list[int]]:
    """Draw a vector's length, spans that are apart, in any order, some empty, and a k for each."""
    edges = sorted(draw(st.lists(st.integers(0, 400), min_size=2, max_size=24)))
    spans = draw(st.permutations(list(zip(edges[::2], edges[1::2], strict=False))))
    ks = [draw(st.one_of(st.just(0), st.just(end - start), st.integers(0, end - start))) for start, end in spans]
    return edges[-1] + 3, list(spans), ks


@settings(deadline=None, max_examples=150)
@given(pieces(), st.sampled_from(KINDS), st.sampled_from(DTYPES))
def test_tops_is_the_reference(case: tuple[int, list[Span], list[int]], kind: str, dtype: torch.dtype) -> None:
    d, spans, ks = case
    x = vector(d, kind, dtype)
    found = kernels.segmented_topk(x, spans, ks)
    assert found.dtype == torch.int64
    assert torch.equal(found, reference.segmented_topk(x, spans, ks))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_tops_mixes_long_and_short_pieces(kind: str, dtype: torch.dtype) -> None:
    lengths = [5, 100_000, 64, 64, 0, 5000, 1, 2048, 2049, 40_000, 3]
    ends = torch.tensor(lengths).cumsum(0).tolist()
    spans = [(end - length, end) for end, length in zip(ends, lengths, strict=True)][::-1]
    x = vector(ends[-1], kind, dtype)
    ks = [math.ceil((end - start) * share / 100) for (start, end), share in zip(spans, range(0, 110, 10), strict=True)]
    assert torch.equal(kernels.segmented_topk(x, spans, ks), reference.segmented_topk(x, spans, ks))


def test_tops_of_nothing() -> None:
    for spans, ks in (([], []), ([(0, 0)], [0]), ([(2, 2), (0, 0)], [0, 0]), ([(0, 3), (3, 5)], [0, 0])):
        assert kernels.segmented_topk(torch.ones(5), spans, ks).tolist() == []


def test_as_many_budgets_as_spans() -> None:
    with pytest.raises(ValueError, match="zip"):
        reference.segmented_topk(torch.ones(3), [(0, 3)], [])


@settings(deadline=None, max_examples=300)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=300), st.data())
def test_top_of_any_finite_values(values: list[float], data: st.DataObject) -> None:
    """Both zeros, subnormals and the largest value are drawn too, repeated so that there are ties and blocks."""
    x = torch.tensor(values * data.draw(st.integers(1, 9)))
    k = data.draw(st.integers(0, len(x)))
    assert torch.equal(kernels.topk(x, k), reference.topk(x, k))


def test_top_where_the_sample_sees_nothing_of_what_is_large(loops: str) -> None:
    """First ten thousand large ones side by side, more than the buffer holds; then all large ones
    between the samples.
    """
    x = vector(200_000, "normal")
    x[70_000:80_000] *= 100
    for k in (100, 9000, 10_000, 11_000):
        assert torch.equal(kernels.topk(x, k), reference.topk(x, k))
        assert torch.equal(kernels.topk(x.flip(0), k), reference.topk(x.flip(0), k))


@pytest.mark.parametrize(("spans", "ks"), [([(0, 9001)], [1]), ([(-1, 5)], [1]), ([(5, 4)], [0]), ([(0, 5)], [6])])
def test_compiled_loops_stay_inside_the_vector(spans: list[Span], ks: list[int], loops: str) -> None:
    if loops == "numba":
        with pytest.raises(ValueError, match="does not fit the vector"):
            kernels.segmented_topk(torch.ones(9000), spans, ks)
        with pytest.raises(ValueError, match="every span needs its k, got 1 spans and 0 ks"):
            kernels.segmented_topk(torch.ones(9000), spans, [])


def test_norms_stay_inside_the_vector(loops: str) -> None:
    if loops == "numba":
        with pytest.raises(ValueError, match="a span does not fit the vector"):
            kernels.norms(torch.ones(9000), [(0, 9001)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.0, 2.0**-140, 2.0**-100, 1.0, 2.0**100])
def test_norms_are_exact_at_every_scale(dtype: torch.dtype, scale: float) -> None:
    """`kernels.norms` promises 1e-12; the order of summation is free."""
    x = (vector(100_000, "scales", torch.float64).div(1e6).mul(scale)).to(dtype)
    spans = [(0, 10), (10, 10), (10, 1034), (1034, 60_000), (60_000, 100_000), (0, 100_000)]
    exact = [math.sqrt(math.fsum(value * value for value in x[start:end].tolist())) for start, end in spans]
    assert kernels.norms(x, spans) == pytest.approx(exact, rel=1e-12, abs=0)


def test_norms_of_the_largest_values_are_finite() -> None:
    x = torch.full((20_000,), 3e38)
    assert kernels.norms(x, [(0, 20_000)]) == pytest.approx([float(x[0]) * math.sqrt(20_000)], rel=1e-12)


def test_norms_of_no_span() -> None:
    assert kernels.norms(torch.ones(3), []) == []
    assert kernels.norms(torch.ones(9000), []) == []


@pytest.mark.parametrize(
    ("d", "k", "crc"), [(100_003, 1000, 1901014600), (100_003, 99_000, 949476919), (9000, 4500, 2456184784)]
)
def test_the_subset_of_a_key_is_a_promise(d: int, k: int, crc: int) -> None:
    """This includes two keys in a batch, and more than half, where the values drawn are those left out."""
    found = kernels.support(torch.tensor([0, -7]), d, k)
    assert zlib.crc32(found.numpy().tobytes()) == crc


@settings(deadline=None, max_examples=100)
@given(st.integers(-(2**63), 2**63 - 1), st.integers(1, 700), st.data())
def test_a_subset_is_that_of_plain_torch(key: int, d: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, d))
    found = kernels.support(torch.tensor(key), d, k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "warm_up", lambda: False)
        assert torch.equal(found, kernels.support(torch.tensor(key), d, k))
    assert len(found.unique()) == k
    assert kernels.support(torch.zeros(2, 3, dtype=torch.int64), d, k).shape == (2, 3, k)


# ---- Numba comes when it is needed, and once


def run(script: str) -> str:
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return ended.stdout.strip()


def test_numba_is_imported_by_the_first_long_vector() -> None:
    pytest.importorskip("numba")
    script = """
import sys, torch, gradwire
from gradwire import kernels
print("numba" in sys.modules)
kernels.topk(torch.ones(kernels.compiled.LONG - 1), 3)
print("numba" in sys.modules)
kernels.topk(torch.ones(kernels.compiled.LONG), 3)
print("numba" in sys.modules)
"""
    assert run(script).split() == ["False", "False", "True"]


def test_without_numba_one_warning_says_what_it_costs(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING, "gradwire"):
        patch.setitem(sys.modules, "numba", None)
        for name in [name for name in sys.modules if name.startswith("gradwire.kernels.cpu")]:
            patch.delitem(sys.modules, name)
        LOAD.cache_clear()
        assert (LOAD(), LOAD()) == (False, False)
    LOAD.cache_clear()
    (record,) = caplog.records
    assert "pip install gradwire[cpu]" in record.getMessage()


def test_nothing_is_compiled_after_loading() -> None:
    """Every loop has one signature, or one for each kind of residual, and takes no other types."""
    pytest.importorskip("numba")
    from gradwire.kernels import cpu

    for loop in [getattr(cpu, name) for name in cpu.__all__ if name not in ("buffer_size", "INFINITE", "SAMPLED")]:
        assert len(loop.signatures) == (2 if loop in (cpu.move, cpu.sample) else 1)
        assert not loop._can_compile


def test_one_file_imports_numba() -> None:
    source = Path(kernels.__file__).parents[1]
    importers = {
        file.name
        for file in source.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        if name.split(".")[0] in ("numba", "llvmlite")
    }
    assert importers == {"compiler.py"}


@pytest.mark.parametrize("d", [0, 1, 7, 64, 70_000])
@pytest.mark.parametrize("worst", [1.0, -0.0, 3.4e38, math.inf, -math.inf, math.nan])
def test_a_copy_tells_whether_it_is_finite(d: int, worst: float) -> None:
    for place in {0, d // 2, d - 1} if d else set():
        x = vector(d, "normal")
        x[place] = worst
        target = torch.empty(d)
        assert kernels.copy_(target, x) == math.isfinite(worst)
        assert torch.equal(target.view(torch.int32), x.view(torch.int32))
    assert kernels.copy_(torch.empty(d), torch.full((d,), 3e38))  # whose sum is not


def test_a_copy_of_any_shape_and_dtype() -> None:
    x = torch.randn(30, 400)
    for source in (x, x.t(), x.bfloat16(), x[:, ::2]):
        target = torch.empty(source.shape, dtype=source.dtype)
        assert kernels.copy_(target, source)
        assert torch.equal(target, source)
    part = torch.zeros(60, 400)
    assert kernels.copy_(part[:30], x)
    assert torch.equal(part[:30], x)
    assert not part[30:].any()


@pytest.mark.parametrize("sizes", [[1], [63, 0, 1], [64, 64], [5, 9000, 1, 300], [70_001, 2, 40_000]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("decay", [1.0, 0.95])
def test_a_vector_is_accumulated_from_pieces(sizes: list[int], dtype: torch.dtype, decay: float) -> None:
    """The bits are those of two passes: the product is rounded, then the sum."""
    pieces = [vector(size, "normal", dtype, seed) for seed, size in enumerate(sizes)]
    pieces[0] = pieces[0].repeat(2)[::2]  # lies with gaps
    given = torch.cat(pieces).float()
    for memory in (None, vector(sum(sizes), "scales", seed=99)):
        brought = [piece.clone() for piece in pieces]
        x = torch.empty(sum(sizes))
        made = kernels.accumulate(x, memory, brought, decay=decay)
        assert made.values is x
        assert torch.equal(x, given if memory is None else given + memory * decay)
        assert made.finite
        assert made.cleared == (memory is not None)
        rounding = 2.0**-23 * (2 * x.abs() + 2 * given.abs())  # of a product, a sum and a difference
        assert bool(((made.pieces() - given).abs() <= (0.0 if memory is None else rounding)).all())
        for piece, before in zip(brought, pieces, strict=True):
            assert torch.equal(piece, 0 * before if made.cleared else before)


@pytest.mark.parametrize("worst", [math.inf, -math.inf, math.nan, 3e38])
@pytest.mark.parametrize("wanted", [0, 90])
def test_accumulating_tells_whether_the_sum_is_finite(worst: float, wanted: int) -> None:
    d = 9001
    for place in (0, 63, 8999, d - 1):
        for into_memory in (True, False):
            memory, pieces = vector(d, "normal"), [vector(1000, "ties"), vector(d - 1000, "ties")]
            flat = torch.cat(pieces)
            (memory if into_memory else flat)[place] = worst
            pieces = list(flat.split([1000, d - 1000]))
            x = torch.empty(d)
            assert kernels.accumulate(x, memory, pieces, largest=wanted).finite == math.isfinite(worst)
            assert x[place].isfinite() == math.isfinite(worst)
    huge = torch.full((d,), 3e38)
    assert not kernels.accumulate(torch.empty(d), huge.clone(), [huge]).finite  # each is, the sum is not


@pytest.mark.parametrize("sizes", [[9001], [3000, 1, 0, 70, 5930], [70_001, 2, 40_000]])
def test_layers_are_measured_in_the_pass_that_accumulates(loops: str, sizes: list[int]) -> None:
    """The norms are bit-equal to those of a separate pass if a layer is one piece; otherwise equal up to rounding."""
    d = sum(sizes)
    inside = [0, 64, 100, 2000, 3000, d - 1, d]
    apart, across = list(itertools.pairwise(inside)), [(0, d)]
    for layers in (apart, across):
        x, pieces = torch.empty(d), [vector(size, "normal", seed=seed) for seed, size in enumerate(sizes)]
        made = kernels.accumulate(x, vector(d, "scales", seed=99), pieces, layers=layers)
        assert bool(made.norms) == (loops == "numba")
        if made.norms:
            assert made.norms == pytest.approx(reference.norms(x, layers), rel=1e-12)
            if sizes == [d]:
                assert made.norms == kernels.norms(x, layers)
        assert made.zeroed().norms == ()
        assert not x.any()


def test_layers_that_are_not_the_vector_are_refused(loops: str) -> None:
    if loops != "numba":
        return
    for layers in ([(0, 8999)], [(1, 9000)], [(0, 10), (11, 9000)]):
        with pytest.raises(ValueError, match="must lie one after the other and make up all 9000 elements"):
            kernels.accumulate(torch.empty(9000), torch.zeros(9000), [torch.ones(9000)], layers=layers)


def test_accumulating_by_other_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="pieces of 8999 elements do not make a vector of 9000"):
        kernels.accumulate(torch.empty(9000), torch.zeros(9000), [torch.ones(8999)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wanted", [0, 1, 100, 900, 2000, 9000])
def test_candidates_are_no_other_selection(kind: str, wanted: int) -> None:
    """Whatever was expected and whatever is asked for, the k largest are selected."""
    sizes = [3000, 1, 0, 70, 5929]
    for scale, decay in ((0.0, 1.0), (1.0, 1.0), (1.0, 0.5)):
        x, memory = torch.empty(sum(sizes)), vector(sum(sizes), kind)
        pieces = list((scale * vector(sum(sizes), "few", seed=1)).split(sizes))
        made = kernels.accumulate(x, memory, pieces, largest=wanted, decay=decay)
        for k in (0, 1, 90, 100, 900, 3000, 9000):
            assert torch.equal(kernels.topk(made, k), reference.topk(x, k)), k


@pytest.mark.parametrize("decay", [1.0, 0.1])
def test_the_largest_are_known_without_a_search(loops: str, decay: float) -> None:
    """With a decay of 0.1 only 0.03 % of elements would reach a threshold taken from undecayed residuals, not 1 %."""
    d, k = 200_000, 2000
    x = torch.empty(d)
    made = kernels.accumulate(x, vector(d, "normal"), [vector(d, "normal", seed=1)], largest=k, decay=decay)
    indices = made.topk(k)
    if loops == "numba":
        assert made.keys is not None
        assert k <= len(made.keys) < 2 * k
        assert indices is not None
        assert torch.equal(indices, reference.topk(x, k))
    else:
        assert indices is None
    assert made.topk(3 * k) is None


def test_a_sample_that_sees_nothing_of_what_is_large(loops: str) -> None:
    """Then more elements reach the threshold than can be collected, and the whole vector is searched."""
    if loops == "numpy":
        pytest.skip("only the compiled loop samples")
    from gradwire.kernels import cpu

    d, k = 1 << 18, 100
    sample = torch.zeros(cpu.buffer_size(d, k), dtype=torch.int64).numpy()
    count = cpu.sample(torch.zeros(d).numpy(), torch.arange(d, dtype=torch.float32).numpy(), 1.0, 0, k, sample, 0)
    sampled = torch.from_numpy(sample[:count]).int().view(torch.float32).long()
    assert len(sampled.unique()) == count > 100
    memory = vector(d, "rising")
    memory[sampled] = 0.0
    x = torch.empty(d)
    made = kernels.accumulate(x, memory, [torch.zeros(d)], largest=k)
    assert made.keys is not None
    assert len(made.keys) == 0
    assert torch.equal(kernels.topk(made, k), reference.topk(x, k))


@pytest.mark.parametrize("order", ["sorted", "two runs", "any"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_few_values_are_spread_over_pieces_that_lie_apart(order: str, dtype: torch.dtype) -> None:
    sizes = [5, 0, 9000, 1, 300]
    ends = torch.tensor(sizes).cumsum(0).tolist()
    starts = [40_000, -1, 100, 20_000, -1]
    rng = torch.Generator().manual_seed(1)
    indices = torch.randint(sum(sizes), (500,), generator=rng)
    indices = {
        "sorted": indices.sort().values,
        "two runs": torch.cat([indices[:250].sort().values, indices[250:].sort().values]),
        "any": indices,
    }[order]
    values = torch.randn(500, generator=rng, dtype=dtype)
    target, wanted, flat = (
        torch.ones(50_000, dtype=dtype),
        torch.ones(50_000, dtype=dtype),
        torch.zeros(sum(sizes), dtype=dtype),
    )
    flat.index_add_(0, indices, values)
    for piece, start in zip(flat.split(sizes), starts, strict=True):
        if start >= 0:
            wanted[start : start + len(piece)] += piece
    kernels.scatter_(target, indices, values, ends, starts)
    torch.testing.assert_close(target, wanted)
    again = torch.ones(50_000, dtype=dtype)
    reference.scatter_(again, indices, values, ends, starts)
    assert torch.equal(target, again)


def test_what_lies_outside_is_not_written() -> None:
    values = torch.ones(1)
    for index, start in ((-1, 0), (10, 0), (9, 49_995)):
        target = torch.zeros(50_000)
        with pytest.raises((ValueError, RuntimeError, IndexError)):
            kernels.scatter_(target, torch.tensor([index]), values, [10], [start])
        assert not target.any()
