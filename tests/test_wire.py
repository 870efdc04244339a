"""Wire formats: what is packed comes back, in the promised length, and old bytes always decode."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

import gradwire as gw
from gradwire import kernels
from gradwire.kernels import reference
from gradwire.spec import build
from gradwire.wire import bits, index, values
from gradwire.wire.chunks import ChunkIndices

GOLDEN = json.loads((Path(__file__).parent / "golden" / "wire.json").read_text())


@settings(deadline=None)
@given(st.integers(1, 62), st.data())
def test_bits_come_back(width: int, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 3))
    count = data.draw(st.integers(0, 40))
    number = st.integers(0, 2**width - 1)
    x = torch.tensor(data.draw(st.lists(number, min_size=rows * count, max_size=rows * count)), dtype=torch.int64)
    x = x.view(rows, count)
    wire = bits.pack(x, width)
    assert wire.dtype == torch.uint8
    assert wire.shape == (rows, bits.nbytes(count, width))
    assert torch.equal(bits.unpack(wire, width, count), x)


@settings(deadline=None)
@given(st.integers(1, 2000), st.data())
def test_indices_come_back(d: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, d))
    seed = data.draw(st.integers(0, 2**31))
    where = data.draw(st.sampled_from(["random", "first", "last"]))
    order = torch.randperm(d, generator=torch.Generator().manual_seed(seed))
    x = {"random": order[:k].sort().values, "first": torch.arange(k), "last": torch.arange(d - k, d)}[where]
    wire = index.encode(x, d)
    assert wire.shape == (index.nbytes(d, k),)
    assert torch.equal(index.decode(wire, d, k), x)


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(1, 80), st.data())
def test_indices_of_chunks_come_back_in_the_shorter_form(d: int, size: int, data: st.DataObject) -> None:
    chunks = ChunkIndices(d, size, data.draw(st.integers(1, size)), data.draw(st.integers(0, d % size)))
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    rows = [
        torch.randperm(size, generator=rng)[: chunks.kept].sort().values + start
        for start in range(0, d - d % size, size)
    ]
    last = torch.randperm(d % size, generator=rng)[: chunks.last].sort().values + d - d % size
    x = torch.cat([*rows, last]).expand(2, -1)
    wire = chunks.encode(x)
    assert len(x[0]) == chunks.count
    assert wire.shape == (2, min(index.nbytes(d, chunks.count), bits.nbytes(chunks.count, (size - 1).bit_length())))
    assert torch.equal(chunks.decode(wire), x)


@pytest.mark.parametrize(
    ("kept", "gaps", "offsets"), [(1, 14.0, 12.0), (2, 13.0, 12.0), (3, 12.3, 12.0), (4, 12.0, None)]
)
def test_twelve_bits_are_fewer_only_where_few_of_4096_are_kept(kept: int, gaps: float, offsets: float | None) -> None:
    """These are the figures of wire/chunks.py: at 64 of 4096, as in DeMo and SparseLoCo, Elias-Fano takes 8.0 bits."""
    chunks = ChunkIndices(4096 * 1000, 4096, kept, 0)
    assert round(8 * index.nbytes(chunks.d, chunks.count) / chunks.count, 1) == gaps
    assert round(8 * chunks.nbytes / chunks.count, 1) == (offsets or gaps)
    assert chunks.offsets == (offsets is not None)
    many = ChunkIndices(4096 * 1000, 4096, 64, 0)
    assert 8 * many.nbytes / many.count == pytest.approx(8.0, abs=0.01)


@pytest.mark.parametrize(
    ("chunks", "offsets"),
    [
        (ChunkIndices(128, 64, 2, 0), [3, 3, 1, 2]),
        (ChunkIndices(330, 33, 1, 0), [0] * 8 + [33, 1]),
        (ChunkIndices(267, 64, 1, 1), [1, 1, 1, 1, 11]),
    ],
)
def test_offsets_that_are_none_are_refused(chunks: ChunkIndices, offsets: list[int]) -> None:
    """Offsets are equal, beyond their chunk, or beyond the vector."""
    assert chunks.offsets
    with pytest.raises(ValueError, match=r"are not .* increasing indices below"):
        chunks.decode(bits.pack(torch.tensor(offsets), 6))


@pytest.mark.parametrize(("density", "over"), [(0.5, 1.01), (0.3, 1.14), (0.1, 1.13), (0.01, 1.08), (0.001, 1.08)])
def test_indices_cost_little_over_the_entropy_of_a_random_support(density: float, over: float) -> None:
    """d H(p) / k bits, about log2(e / p), is the least that any code needs on average."""
    d = 1_000_000
    k = int(density * d)
    entropy = -(density * math.log2(density) + (1 - density) * math.log2(1 - density)) / density
    assert entropy <= 8 * index.nbytes(d, k) / k <= over * entropy


@pytest.mark.parametrize(("density", "promised"), [(0.01, 8.6), (0.001, 12.0)])
def test_index_bits_are_what_the_docs_say(density: float, promised: float) -> None:
    assert round(8 * index.nbytes(1_000_000, int(density * 1e6)) / (density * 1e6), 1) == promised


def test_bytes_that_are_no_indices_are_refused() -> None:
    wire = index.encode(torch.tensor([3, 50, 77]), 100)
    with pytest.raises(ValueError, match="take"):
        index.decode(wire[:-1], 100, 3)
    with pytest.raises(ValueError, match="not"):
        index.decode(torch.zeros_like(wire), 100, 3)
    with pytest.raises(ValueError, match="not"):
        index.decode(torch.full_like(wire, 255), 100, 3)


@pytest.mark.parametrize("name", ["float32", "float64", "bfloat16", "natural"])
@pytest.mark.parametrize("shape", [(0,), (1,), (9,), (3, 17)])
def test_values_have_the_promised_length(name: values.Format, shape: tuple[int, ...]) -> None:
    wire = values.encode(torch.randn(shape), name, 0)
    assert wire.shape == (*shape[:-1], values.nbytes(name, shape[-1]))
    assert values.decode(wire, name, shape[-1]).shape == shape


def test_natural_sends_powers_of_two_exactly_and_keeps_signs() -> None:
    x = torch.tensor([0.0, 1.0, -1.0, 2.0**-126, -(2.0**127), 0.5, -(2.0**-30)])
    assert torch.equal(values.decode(values.encode(x, "natural", 0), "natural", 7), x)


def test_natural_outside_the_normal_range() -> None:
    """Subnormal numbers stay unbiased; numbers above the powers of two in float32 become the largest one."""
    x = torch.full((100_000,), 2.0**-128)
    y = values.decode(values.encode(x, "natural", 0), "natural", len(x))
    assert set(y.tolist()) <= {0.0, 2.0**-126}
    # A quarter becomes 2^-126: five sigma of 100,000 coins.
    assert abs((y > 0).double().mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / len(x))
    huge = torch.tensor([3e38, -3.4e38])
    assert values.decode(values.encode(huge, "natural", 0), "natural", 2).tolist() == [
        2.0**127,
        -(2.0**127),
    ]


def test_bfloat16_never_makes_an_inf() -> None:
    x = torch.tensor([3.4e38, -3.4e38, 1e-45])
    assert values.decode(values.encode(x, "bfloat16"), "bfloat16", 3).isfinite().all()


def made(entry: dict) -> gw.Compressor:
    """Return the compressor that wrote an entry: those of 0.1.0 name class and parameters, later ones a spec."""
    return build(entry["spec"]) if "spec" in entry else vars(gw.compress)[entry["class"]](**entry["parameters"])


@pytest.mark.parametrize("entry", GOLDEN, ids=[entry["name"] for entry in GOLDEN])
def test_old_bytes_still_decode(entry: dict) -> None:
    """The file has bytes that some version has written; entries are only added."""
    wire = torch.frombuffer(bytearray.fromhex(entry["wire"]), dtype=torch.uint8)
    assert made(entry).decode(wire, entry["d"]).dense().tolist() == entry["dense"]


DETERMINISTIC = [entry for entry in GOLDEN if "x" in entry]  # what draws nothing, or only coins of the turn's key


@pytest.mark.parametrize("entry", DETERMINISTIC, ids=[entry["name"] for entry in DETERMINISTIC])
def test_new_bytes_are_the_old_ones(entry: dict) -> None:
    """Operators that draw no random bits, or round by `kernels.uniforms`, must also encode as before."""
    turn = gw.Turn(0, 1, 0, gw.Layout(["x"], [(entry["d"],)]))
    assert bytes(made(entry).encode(torch.tensor(entry["x"]), turn).tolist()).hex() == entry["wire"]


def test_every_format_has_golden_bytes() -> None:
    assert {type(c) for c in zoo.COMPRESSORS} - {gw.compress.Scaled} <= {type(made(entry)) for entry in GOLDEN}


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.data())
def test_top_is_the_sorted_first_of_the_largest(d: int, data: st.DataObject) -> None:
    """Compared with a definition by sorting, ties included: the first of equal magnitudes wins."""
    k = data.draw(st.integers(0, d))
    x = torch.tensor(data.draw(st.lists(st.integers(-5, 5), min_size=d, max_size=d)), dtype=torch.float32)
    order = sorted(range(d), key=lambda i: (-abs(float(x[i])), i))
    assert kernels.topk(x, k).tolist() == sorted(order[:k])


@pytest.mark.parametrize("kind", ["normal", "ties", "zeros", "few", "trap"])
@pytest.mark.parametrize("k", [1, 700, 20_000])
def test_fast_top_equals_the_reference(kind: str, k: int) -> None:
    d = 200_003
    x = torch.randn(d, generator=torch.Generator().manual_seed(1))
    x = {
        "normal": x,
        "ties": (4 * x).round(),
        "zeros": torch.zeros(d),
        "few": torch.where(x > 4, x, 0.0),
        "trap": torch.where(torch.arange(d) % (d // 8192) == 0, 1e6, x),  # all that the sample sees is large
    }[kind]
    assert torch.equal(kernels.topk(x, k), reference.topk(x, k))


def test_support_is_uniform_and_made_of_distinct_indices() -> None:
    """Every index is drawn equally often within five sigma, over 20,000 keys and all k of a small d."""
    d, keys = 12, torch.arange(20_000)
    for k in range(d + 1):
        drawn = kernels.support(keys, d, k)
        assert drawn.shape == (len(keys), k)
        assert bool((drawn[:, 1:] > drawn[:, :-1]).all())
        share = torch.bincount(drawn.flatten(), minlength=d) / len(keys)
        assert (share - k / d).abs().max() <= 5 * math.sqrt(k / d * (1 - k / d) / len(keys)) + 1e-12


def test_support_draws_all_pairs_equally_often() -> None:
    d, k, keys = 7, 3, torch.arange(35_000)
    drawn = kernels.support(keys, d, k)
    subsets = (drawn * torch.tensor([49, 7, 1])).sum(-1).unique(return_counts=True)[1]
    assert len(subsets) == math.comb(d, k)
    assert (subsets - 1000).abs().max() < 5 * math.sqrt(1000)


def test_support_is_the_same_for_ever() -> None:
    """This is a promise, because the wire of randk holds only the key."""
    assert kernels.support(torch.tensor(1), 100, 5).tolist() == GOLDEN_SUPPORT_5_OF_100
    assert kernels.support(torch.tensor([1, 2**62]), 9, 6).tolist() == GOLDEN_SUPPORT_6_OF_9


GOLDEN_SUPPORT_5_OF_100 = [16, 29, 47, 58, 90]
GOLDEN_SUPPORT_6_OF_9 = [[0, 3, 4, 5, 6, 8], [0, 2, 3, 4, 6, 8]]
