"""Fast twins give what the plain definitions give: ties, borders, dtypes, pieces in any order."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwire import kernels
from gradwire.kernels import candidates, host, reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
Span = tuple[int, int]


def vector(d: int, kind: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Normal; or with many ties; or with layers of very different scale; or zeros of both signs."""
    x = torch.randn(d, generator=torch.Generator().manual_seed(seed))
    if kind == "ties":
        x = (2 * x).round()
    if kind == "scales":
        x *= 10 ** torch.linspace(-6, 6, d)
    if kind == "zeros":
        x = x.sign() * 0.0
    if kind == "bfloat16 widened":
        x = x.bfloat16().float()
    return x.to(dtype)


KINDS = ["normal", "ties", "scales", "zeros", "bfloat16 widened"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 7, 1000, candidates.LONG - 1, candidates.LONG, 3 * host.BLOCK + 17])
def test_top_is_the_reference(d: int, kind: str, dtype: torch.dtype) -> None:
    x = vector(d, kind, dtype)
    for k in sorted({0, 1, d // 1000, d // 100, d // 10, d // 4, d // 4 + 1, d // 2, d - 1, d}):
        assert torch.equal(kernels.top(x, k), reference.top(x, k)), k


def test_top_when_the_sample_misleads() -> None:
    """A sample that sees only large elements guesses a threshold that too few pass: selected again, same result."""
    d, k = 4 * host.BLOCK, 2000
    x = vector(d, "normal")
    candidates._sample(x).mul_(1000)
    assert len(host.passing(x.numpy(), float(candidates._guess(x, k)))[0]) < k
    assert torch.equal(kernels.top(x, k), reference.top(x, k))


@pytest.mark.parametrize("d", [0, 5, 70_000])
def test_top_takes_strides_and_rows(d: int) -> None:
    x = vector(3 * d, "ties").view(d, 3)
    k = d // 50
    assert torch.equal(kernels.top(x[:, 1], k), reference.top(x[:, 1], k))
    assert torch.equal(kernels.top(x.T, k), reference.top(x.T, k))


@st.composite
def pieces(draw: st.DrawFn) -> tuple[int, list[Span], list[int]]:
    """A vector's length, spans that lie apart, in any order, some empty, and a k for each."""
    edges = sorted(draw(st.lists(st.integers(0, 400), min_size=2, max_size=24)))
    spans = draw(st.permutations(list(zip(edges[::2], edges[1::2], strict=False))))
    ks = [draw(st.one_of(st.just(0), st.just(end - start), st.integers(0, end - start))) for start, end in spans]
    return edges[-1] + 3, list(spans), ks


@settings(deadline=None, max_examples=150)
@given(pieces(), st.sampled_from(KINDS), st.sampled_from(DTYPES))
def test_tops_is_the_reference(case: tuple[int, list[Span], list[int]], kind: str, dtype: torch.dtype) -> None:
    d, spans, ks = case
    x = vector(d, kind, dtype)
    found = kernels.tops(x, spans, ks)
    assert found.dtype == torch.int64
    assert torch.equal(found, reference.tops(x, spans, ks))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_tops_mixes_long_and_short_pieces(kind: str, dtype: torch.dtype) -> None:
    lengths = [5, 100_000, 64, 64, 0, 5000, 1, 2048, 2049, 40_000, 3]
    ends = torch.tensor(lengths).cumsum(0).tolist()
    spans = [(end - length, end) for end, length in zip(ends, lengths, strict=True)][::-1]
    x = vector(ends[-1], kind, dtype)
    ks = [math.ceil((end - start) * share / 100) for (start, end), share in zip(spans, range(0, 110, 10), strict=True)]
    assert torch.equal(kernels.tops(x, spans, ks), reference.tops(x, spans, ks))


def test_tops_of_nothing() -> None:
    for spans, ks in (([], []), ([(0, 0)], [0]), ([(2, 2), (0, 0)], [0, 0]), ([(0, 3), (3, 5)], [0, 0])):
        assert kernels.tops(torch.ones(5), spans, ks).tolist() == []


def test_as_many_budgets_as_spans() -> None:
    with pytest.raises(ValueError, match="zip"):
        reference.tops(torch.ones(3), [(0, 3)], [])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.0, 2.0**-140, 2.0**-100, 1.0, 2.0**100])
def test_norms_are_the_reference_at_every_scale(dtype: torch.dtype, scale: float) -> None:
    """1e-6 is what `host.norms` promises of float32."""
    x = (vector(100_000, "scales", torch.float64).div(1e6).mul(scale)).to(dtype)
    spans = [(0, 10), (10, 10), (10, 1034), (1034, 60_000), (60_000, 100_000), (0, 100_000)]
    assert kernels.norms(x, spans) == pytest.approx(reference.norms(x, spans), rel=1e-6, abs=0)


def test_norms_of_no_span() -> None:
    assert kernels.norms(torch.ones(3), []) == []
