"""Operators made of operators: their constants and their bytes follow from those of their parts."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradwire as gw
from gradwire import kernels
from gradwire.compress import supports
from gradwire.compress.blockwise import Blockwise
from gradwire.compress.chain import Chain
from gradwire.compress.chunked import ChunkedTopK
from gradwire.compress.induced import Induced
from gradwire.compress.protocol import Compressor, Direct, Sparsifier, operate
from gradwire.vector import Message, Sparse

DRAWS = 4000
PROJECTION = gw.compress.RandK(0.2, unbiased=False)
UNBIASED = [
    Induced(gw.compress.TopK(0.2), gw.compress.RandK(0.1)),
    Induced(gw.compress.TopK(0.2, "bfloat16"), gw.compress.Natural()),
    Induced(gw.compress.Scaled(gw.compress.RandK(0.3)), gw.compress.RandK(0.2)),
    Induced(PROJECTION, gw.compress.RandK(0.5)),
    Chain(gw.compress.RandK(0.2), gw.compress.Natural()),
    Chain(gw.compress.RandK(0.5), gw.compress.RandK(0.5)),
    Blockwise(gw.compress.RandK(0.25), 8),
    Blockwise(gw.compress.Natural(), 25),
    Blockwise(Induced(gw.compress.TopK(0.2), gw.compress.RandK(0.3)), 20),
    Induced(Blockwise(gw.compress.TopK(0.1), 10), Chain(gw.compress.RandK(0.5), gw.compress.Natural())),
]
CONTRACTIVE = [
    PROJECTION,
    gw.compress.RandK(0.2, "bfloat16", unbiased=False),
    gw.compress.RandK(0.4, "natural", unbiased=False),
    Chain(gw.compress.TopK(0.2), gw.compress.Natural()),
    Chain(gw.compress.TopK(0.2), gw.compress.Scaled(gw.compress.RandK(0.1))),
    Chain(PROJECTION, gw.compress.Natural()),
    Chain(gw.compress.RandK(1.0), gw.compress.TopK(0.1)),
    Blockwise(gw.compress.TopK(0.1), 20),
    Blockwise(gw.compress.Scaled(gw.compress.RandK(0.2)), 7),
    gw.compress.Scaled(Blockwise(gw.compress.RandK(0.2), 7)),
    gw.compress.Scaled(Induced(gw.compress.TopK(0.2), gw.compress.RandK(0.1))),
]
PLAIN = [
    gw.compress.Identity(),
    gw.compress.Identity("float64"),
    gw.compress.Identity("bfloat16"),
    gw.compress.Natural(),
    gw.compress.TopK(0.3),
    gw.compress.TopK(0.3, "float64"),
    gw.compress.TopK(0.3, "natural"),
    gw.compress.RandK(0.3),
    gw.compress.RandK(0.3, "float64"),
    gw.compress.RandK(0.7, "natural"),
    gw.compress.Scaled(gw.compress.RandK(0.3)),
    gw.compress.Scaled(gw.compress.RandK(0.3, "float64")),
    gw.compress.Scaled(gw.compress.Natural()),
    Induced(gw.compress.Identity("bfloat16"), gw.compress.Natural()),
    Induced(gw.compress.TopK(0.3, "float64"), gw.compress.RandK(0.3)),
]
ALL = PLAIN + UNBIASED + CONTRACTIVE


def turn(d: int, rank: int | slice = 0, step: int = 0, seed: int = 3) -> gw.Turn:
    return gw.Turn(rank, 5, step, gw.Layout(["x"], [(d,)]), seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x * torch.logspace(0, -3, shape[-1], dtype=torch.float64)).to(dtype)


def through(compressor: Compressor, x: torch.Tensor, turn: gw.Turn) -> Message:
    return compressor.decode(compressor.encode(x, turn), x.shape[-1])


def draws(compressor: Compressor, x: torch.Tensor, count: int = DRAWS) -> torch.Tensor:
    """Return f64[count, d]: that many applications, each with separate randomness."""
    return through(compressor, x.expand(count, -1), turn(len(x))).dense().double()


# Constants


@pytest.mark.parametrize("d", [40, 300, 1000])
def test_constants_follow_from_the_parts(d: int) -> None:
    topk, unbiased, natural = gw.compress.TopK(0.1), gw.compress.RandK(0.2), gw.compress.Natural()
    # Horváth and Richtárik 2021, Theorem 3.
    assert Induced(topk, unbiased).omega(d) == pytest.approx(4 * (1 - 0.1))
    assert Induced(topk, natural).delta(d) == pytest.approx(1 - 0.9 / 8)
    assert Induced(topk, unbiased).delta(d) is None
    # Horváth et al. 2019, Theorem 5: C_nat after Q in U(omega) is in U(9/8 omega + 1/8).
    assert Chain(unbiased, natural).omega(d) == pytest.approx(9 / 8 * 4 + 1 / 8)
    assert Chain(unbiased, natural).delta(d) is None
    assert Chain(gw.compress.RandK(0.9), natural).delta(d) == pytest.approx(1 - (9 / 8 / 0.9 - 1))
    # A projection and then what contracts, in the dimension of what is kept.
    assert Chain(topk, natural).omega(d) is None
    assert Chain(topk, natural).delta(d) == pytest.approx(0.1 * 7 / 8)
    assert Chain(PROJECTION, gw.compress.TopK(0.5)).delta(d) == pytest.approx(0.2 * 0.5)
    assert Chain(topk, gw.compress.RandK(0.25)).delta(d) is None
    assert Chain(topk, gw.compress.Scaled(gw.compress.RandK(0.25))).delta(d) == pytest.approx(
        0.1 * kept_share(0.25, d // 10)
    )
    # A scaled-up support before what is biased is neither unbiased nor a contraction.
    assert (Chain(unbiased, gw.compress.TopK(0.5)).omega(d), Chain(unbiased, gw.compress.TopK(0.5)).delta(d)) == (
        None,
        None,
    )
    # The worst block decides: of 16 and of d % 16 elements.
    rest = [16, d % 16]
    assert Blockwise(unbiased, 16).omega(d) == max(unbiased.omega(size) or 0.0 for size in rest)
    assert Blockwise(topk, 16).delta(d) == min(topk.delta(size) or 0.0 for size in rest)
    assert (Blockwise(topk, 16).omega(d), Blockwise(unbiased, 16).delta(d)) == (None, None)
    # Rand-k without its factor is a projection on k of d coordinates.
    assert (PROJECTION.omega(d), PROJECTION.delta(d)) == (None, pytest.approx(0.2))
    assert gw.compress.RandK(0.2, "natural", unbiased=False).delta(d) == pytest.approx(0.2 * 7 / 8)


def kept_share(density: float, d: int) -> float:
    return max(1, int(density * d)) / d


@pytest.mark.parametrize("kind", ["normal", "equal", "spike"])
@pytest.mark.parametrize("compressor", UNBIASED, ids=repr)
def test_unbiased_within_5_sigma_and_variance_within_omega(compressor: Compressor, kind: str) -> None:
    x = {"normal": normal(60), "equal": torch.ones(60).double(), "spike": torch.eye(60).double()[30]}[kind]
    y = draws(compressor, x)
    # float32 on the wire rounds by up to 2^-24 of what is sent.
    assert bool(((y.mean(0) - x).abs() <= 5 * y.std(0) / math.sqrt(DRAWS) + 2**-23 * y.abs().amax(0)).all())
    errors = (y - x).square().sum(-1)
    allowed = compressor.omega(60) * x.square().sum()
    # 1e-6: where the variance is the same for every draw, float32's rounding of the values is all that is left.
    assert errors.mean() <= allowed * (1 + 1e-6) + 5 * errors.std() / math.sqrt(DRAWS) + 1e-12


@pytest.mark.parametrize("kind", ["normal", "equal", "spike"])
@pytest.mark.parametrize("compressor", CONTRACTIVE, ids=repr)
def test_contracts_by_delta(compressor: Compressor, kind: str) -> None:
    x = {"normal": normal(60), "equal": torch.ones(60).double(), "spike": torch.eye(60).double()[30]}[kind]
    errors = (draws(compressor, x) - x).square().sum(-1)
    allowed = (1 - compressor.delta(60)) * x.square().sum()
    assert errors.mean() <= allowed * (1 + 1e-6) + 5 * errors.std() / math.sqrt(DRAWS) + 2**-40


# What they do


def test_randk_without_its_factor_sends_the_same_places_and_the_values_themselves() -> None:
    x, t = normal(50, dtype=torch.float32), turn(50)
    scaled, plain = through(gw.compress.RandK(0.2), x, t), through(PROJECTION, x, t)
    assert torch.equal(plain.indices, scaled.indices)
    assert torch.equal(plain.values, x[plain.indices])
    assert torch.equal(plain.values * 5, scaled.values)
    assert len(PROJECTION.encode(x, t)) == gw.compress.RandK(0.2).nbytes(50)
    # Equality on average for every x, here by draws of a support each.
    errors = (draws(PROJECTION, x.double(), 20_000) - x).square().sum(-1)
    assert errors.mean() / x.square().sum() == pytest.approx(0.8, rel=0.03)


@pytest.mark.parametrize("correction", [gw.compress.RandK(0.1), gw.compress.Natural()])
def test_induced_by_the_identity_has_no_variance(correction: Compressor) -> None:
    x = normal(200, dtype=torch.float32)
    assert torch.equal(through(Induced(gw.compress.Identity(), correction), x, turn(200)).dense(), x)


def test_induced_corrects_what_rounding_takes_away() -> None:
    """The correction gets x less the bfloat16 values that were sent, so an exact correction restores x."""
    x = normal(200, dtype=torch.float32)
    for contractive in (gw.compress.Identity("bfloat16"), gw.compress.TopK(0.2, "bfloat16")):
        y = through(Induced(contractive, gw.compress.Identity()), x, turn(200)).dense()
        # x - C(x) is exact where C(x) is near x (Sterbenz 1974), and so is the sum.
        assert torch.equal(y, x)


def test_induced_of_two_sparse_parts_is_sparse_and_twice_is_added_twice() -> None:
    x, parts = normal(30, dtype=torch.float32), (gw.compress.TopK(0.5), gw.compress.RandK(0.5))
    decoded = through(Induced(*parts), x, turn(30))
    assert isinstance(decoded, Sparse)
    assert decoded.indices.shape == (30,)
    assert len(set(decoded.indices.tolist())) < 30
    first = through(parts[0], x, turn(30).fork("contractive"))
    second = through(parts[1], x - first.dense(), turn(30).fork("correction"))
    assert torch.equal(decoded.dense(), first.dense() + second.dense())


def test_the_two_parts_of_induced_draw_independently() -> None:
    x = torch.ones(1000)
    decoded = through(Induced(gw.compress.RandK(0.1, unbiased=False), gw.compress.RandK(0.1)), x, turn(1000))
    twice = 200 - len(decoded.indices.unique())
    # Of 100 indices out of 1000 drawn twice about 10 meet, with a standard deviation of about 3.
    assert abs(twice - 10) <= 15


@pytest.mark.parametrize("sparsifier", [gw.compress.TopK(0.2), gw.compress.RandK(0.2), PROJECTION], ids=repr)
@pytest.mark.parametrize(
    "quantiser", [gw.compress.Identity(), gw.compress.Identity("bfloat16"), gw.compress.Natural()], ids=repr
)
def test_chain_is_sparsify_then_quantise(
    sparsifier: gw.compress.TopK | gw.compress.RandK, quantiser: Compressor
) -> None:
    x, t = normal(3, 120, dtype=torch.float32), turn(120)
    kept = through(sparsifier, x, t.fork("sparsifier"))
    quantised = through(quantiser, kept.values, t.fork("quantiser"))
    decoded = through(Chain(sparsifier, quantiser), x, t)
    assert torch.equal(decoded.indices, kept.indices)
    assert torch.equal(decoded.values, quantised.dense())


@pytest.mark.parametrize("values", ["float32", "float64", "bfloat16"])
def test_topk_with_a_format_is_a_chain(values: str) -> None:
    x, t = normal(3, 120), turn(120)
    chain = Chain(gw.compress.TopK(0.2), gw.compress.Identity(values))
    assert torch.equal(chain.encode(x, t), gw.compress.TopK(0.2, values).encode(x, t))


def test_a_sparse_quantiser_makes_the_chain_sparser() -> None:
    x = normal(4, 100, dtype=torch.float32)
    decoded = through(Chain(gw.compress.TopK(0.4), gw.compress.TopK(0.25)), x, turn(100))
    assert torch.equal(decoded.dense(), through(gw.compress.TopK(0.1), x, turn(100)).dense())
    assert decoded.indices.shape == (4, 10)


@pytest.mark.parametrize("d", [0, 1, 7, 8, 9, 40])
@pytest.mark.parametrize(
    "inner", [gw.compress.TopK(0.3), gw.compress.TopK(0.3, "bfloat16"), gw.compress.Identity("bfloat16")], ids=repr
)
def test_blockwise_is_the_operator_on_every_block(inner: Compressor, d: int) -> None:
    x = normal(2, 3, d, dtype=torch.float32)
    decoded = through(Blockwise(inner, 8), x, turn(d))
    blocks = [through(inner, block, turn(d)) for block in x.split(8, -1)]
    assert torch.equal(decoded.dense(), torch.cat([block.dense() for block in blocks], -1))
    assert isinstance(decoded, Sparse) == isinstance(blocks[0], Sparse)
    if isinstance(decoded, Sparse):
        assert bool((decoded.indices.diff(dim=-1) > 0).all())


@pytest.mark.parametrize("d", [0, 1, 7, 8, 9, 40, 20_001])
@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_chunked_topk_selects_what_blockwise_topk_does(shape: tuple[int, ...], d: int) -> None:
    x = normal(*shape, d, dtype=torch.float32)
    ours, theirs = (through(c, x, turn(d)) for c in (ChunkedTopK(0.3, chunk=8), Blockwise(gw.compress.TopK(0.3), 8)))
    assert torch.equal(ours.indices, theirs.indices)
    assert torch.equal(ours.values, theirs.values)


def test_all_chunks_share_their_levels() -> None:
    """bits2 as one message of all kept values takes 10.0 bits a value at 64 of 4096; separate blocks take 11.0."""
    d = 4096 * 16
    x, c = normal(d, dtype=torch.float32), ChunkedTopK(1 / 64, "bits2")
    assert len(through(c, x, turn(d)).values.unique()) <= 4
    blocks = Blockwise(gw.compress.TopK(1 / 64, "bits2"), 4096)
    assert 8 * c.nbytes(d) / c.count(d) == pytest.approx(10.0, abs=0.1)
    assert 8 * blocks.nbytes(d) / c.count(d) == 11.0


def test_a_chunk_contracts_by_the_smallest_share() -> None:
    """Whole chunks keep 2 of 8, the last one 1 of 7: equal magnitudes in the last one alone contract by 1 / 7."""
    c, x = ChunkedTopK(0.25, chunk=8), torch.zeros(23)
    assert c.delta(23) == 1 / 7
    assert c.delta(16) == c.delta(24) == 2 / 8
    x[16:] = 1.0
    assert (x - through(c, x, turn(23)).dense()).square().sum() == (1 - 1 / 7) * 7


@pytest.mark.parametrize("chunk", [0, -1, 2.5, True, "'x'", "none"])
def test_a_chunk_that_is_none_is_refused(chunk: object) -> None:
    with pytest.raises(gw.SpecError, match="chunk must be a whole number of elements, at least 1, got"):
        gw.parse(f"chunkedtopk(density=0.1, chunk={chunk})")


def test_every_block_of_every_row_draws_for_itself() -> None:
    x = torch.ones(3, 4, 5 * 64 + 63)
    kept = through(Blockwise(gw.compress.RandK(0.25), 64), x, turn(383)).dense().ne(0)
    blocks = torch.cat([kept[..., :320].reshape(60, 64)[:, :63], kept[..., 320:].reshape(12, 63)])
    assert len(blocks.unique(dim=0)) == 72
    noise = through(Blockwise(gw.compress.Natural(), 64), torch.full((3, 4, 383), 1.5), turn(383)).dense()
    rows = torch.cat([noise[..., :320].reshape(60, 64)[:, :63], noise[..., 320:].reshape(12, 63)])
    assert len(rows.unique(dim=0)) == 72


def test_nested_blocks_draw_from_streams_of_their_own() -> None:
    x = torch.full((47,), 1.5)
    decoded = through(Blockwise(Blockwise(gw.compress.Natural(), 5), 12), x, turn(47)).dense()
    five = [*decoded.split(12)[0].split(5)[:2], *decoded.split(12)[3].split(5)[:2]]
    assert len({tuple(block.tolist()) for block in five}) == 4


# Bytes


@settings(deadline=None, max_examples=80)
@given(st.sampled_from(ALL), st.integers(0, 200), st.integers(0, 2**31))
def test_bytes_are_as_promised_and_pure(c: Compressor, d: int, seed: int) -> None:
    x = normal(d, seed=seed, dtype=torch.float32)
    wire = c.encode(x, turn(d, step=seed))
    assert (wire.dtype, wire.shape) == (torch.uint8, (c.nbytes(d),))
    assert torch.equal(wire, c.encode(x, turn(d, step=seed)))
    assert c.decode(wire, d).dense().shape == (d,)
    for wrong in (wire[:-1], torch.cat([wire, wire.new_zeros(1)])):
        if len(wrong) != len(wire):
            with pytest.raises(ValueError, match=r"take.* bytes, got"):
                c.decode(wrong, d)


def test_wires_are_the_parts_one_after_the_other() -> None:
    x, t = normal(100, dtype=torch.float32), turn(100)
    first = gw.compress.TopK(0.1).encode(x, t.fork("contractive"))
    assert torch.equal(Induced(gw.compress.TopK(0.1), gw.compress.Natural()).encode(x, t)[: len(first)], first)
    head = gw.compress.TopK(0.1).encode_indices(gw.compress.TopK(0.1).choose(x, t), 100, t)
    assert torch.equal(Chain(gw.compress.TopK(0.1), gw.compress.Natural()).encode(x, t)[: len(head)], head)
    assert Chain(gw.compress.RandK(0.1), gw.compress.Natural()).nbytes(100) == 8 + 10 + 2
    blocks = [gw.compress.TopK(0.1).encode(block, t) for block in x.split(30)]
    assert torch.equal(Blockwise(gw.compress.TopK(0.1), 30).encode(x, t), torch.cat(blocks))


@pytest.mark.parametrize(
    "sparsifier", [gw.compress.TopK(0.2), gw.compress.RandK(0.2), gw.compress.RandK(0.8)], ids=repr
)
@pytest.mark.parametrize("rank", [1, slice(None)], ids=["one", "batched"])
def test_indices_are_decoded_as_they_were_chosen(sparsifier: Sparsifier, rank: int | slice) -> None:
    assert isinstance(sparsifier, Sparsifier)
    for d in (0, 1, 50):
        x, t = normal(2, 3, d), turn(d, rank)
        indices = sparsifier.choose(x, t)
        wire = sparsifier.encode_indices(indices, d, t)
        assert wire.shape == (2, 3, sparsifier.index_nbytes(d))
        assert indices.shape == (2, 3, sparsifier.count(d))
        assert torch.equal(sparsifier.decode_indices(wire, d), indices)


# Without bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [2, slice(None), slice(0, 5)], ids=["one", "batched", "some"])
@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_apply_is_decode_after_encode(compressor: Compressor, rank: int | slice, dtype: torch.dtype) -> None:
    assert isinstance(compressor, Direct)
    for batch_shape in ((), (5,), (2, 3)):
        for d in (0, 1, 9, 60):
            x = normal(*batch_shape, d, seed=d, dtype=dtype)
            kept, t = x.clone(), turn(d, rank, step=7)
            applied, decoded = operate(compressor, x, t), through(compressor, x, t).to(dtype)
            assert applied.dense().dtype == dtype
            # Dense and sparse parts are added and scaled in another order: in float32, otherwise by a bit or two.
            eps = 4 * torch.finfo(torch.float32).eps if "Induced" in repr(compressor) else 0.0
            torch.testing.assert_close(applied.dense(), decoded.dense(), rtol=eps, atol=eps)
            applied.dense().fill_(1.0)  # shares no memory with x
            assert torch.equal(x, kept)


@pytest.mark.parametrize("compressor", ALL, ids=repr)
@pytest.mark.parametrize("kind", ["zero", "minus zero", "subnormal", "huge", "strided"])
def test_apply_equals_on_hard_inputs(compressor: Compressor, kind: str) -> None:
    """The inputs span float32's whole range, d / k times huge values exceeds it, and rows are not contiguous."""
    x = {
        "zero": torch.zeros(2, 40),
        "minus zero": -torch.zeros(2, 40),
        "subnormal": torch.full((2, 40), 1e-42),
        "huge": torch.full((2, 40), -3.0e38),
        "strided": torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).T,
    }[kind]
    for dtype in (torch.float32, torch.float64):
        applied, decoded = operate(compressor, x.to(dtype), turn(40)), through(compressor, x.to(dtype), turn(40))
        assert torch.equal(applied.dense(), decoded.to(dtype).dense())


def test_a_batched_turn_draws_the_supports_of_many_steps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    support = kernels.support

    def counted(key: torch.Tensor, d: int, k: int) -> torch.Tensor:
        calls.append(key.numel())
        return support(key, d, k)

    monkeypatch.setattr(kernels, "support", counted)
    supports._ahead.cache_clear()
    c, x = gw.compress.RandK(0.1), normal(10, 80)
    chosen = [c.choose(x, turn(80, slice(None), step)) for step in range(1200)]
    assert calls == [5120] * 3
    for step in (0, 1, 511, 512, 700, 1023, 1024, 1199):
        keys = turn(80, slice(None), step).key(shared=False) + torch.arange(10)
        assert torch.equal(chosen[step], support(keys, 80, 8))
    # Another seed, fork, layout or shape is another draw.
    others = [turn(80, slice(None), 3, seed=4), turn(80, slice(None), 3).fork("a"), turn(81, slice(None), 3)]
    assert all(not torch.equal(c.choose(x, other), chosen[3]) for other in others)
    assert torch.equal(c.choose(x[:4], turn(80, slice(None), 3)), chosen[3][:4])
    # What is large is drawn when it is needed, once; and so is what one worker needs.
    calls.clear()
    c.apply(normal(10, 50_000), turn(50_000, slice(None)))
    c.apply(normal(80), turn(80))
    assert calls == [10, 1]


# Supports


def mixed(key: int):
    """SplitMix64 (Steele, Lea and Flood 2014) in plain integers, without its two lowest bits."""
    state = key
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        yield (z ^ (z >> 31)) >> 2


def defined(key: int, d: int, k: int) -> list[int]:
    if 2 * k > d:
        return sorted(set(range(d)) - set(defined(key, d, d - k)))
    return sorted(islice(dict.fromkeys(islice((z % d for z in mixed(key % 2**64)), 100 * d)), k))


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 120), st.data())
def test_support_is_the_first_distinct_values_of_the_stream(d: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, d))
    keys = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4))
    assert kernels.support(torch.tensor(keys), d, k).tolist() == [defined(key, d, k) for key in keys]


def test_support_draws_on_where_the_first_guess_is_too_short(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = torch.arange(50)
    plenty = kernels.support(keys, 40, 20)
    monkeypatch.setitem(kernels.support.reference.__globals__, "_enough", lambda d, k: k)
    assert torch.equal(kernels.support(keys, 40, 20), plenty)


def test_equal_layouts_have_equal_hashes() -> None:
    assert hash(gw.Layout(["a"], [(2, 3)])) == hash(gw.Layout(("a",), [[2, 3]]))
    assert len({gw.Layout(["a"], [(2,)]), gw.Layout(["a"], ((2,),)), gw.Layout(["b"], [(2,)])}) == 2


# Refusals


class Long:
    """A compressor whose messages seem to differ in length."""

    def encode(self, x: torch.Tensor, turn: gw.Turn) -> torch.Tensor: ...
    def decode(self, wire: torch.Tensor, d: int) -> Message: ...
    def nbytes(self, d: int) -> int: ...
    def omega(self, d: int) -> float: ...
    def delta(self, d: int) -> float: ...
    def length(self, wire: torch.Tensor, d: int) -> int: ...
    def __repr__(self) -> str:
        return "Long()"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: gw.compress.RandK(0.1, "bfloat16"), "bfloat16 rounds with a bias; use .* unbiased=false"),
        (lambda: gw.compress.RandK(0.1, unbiased=2), "unbiased must be true or false, got 2"),
        (lambda: Induced(gw.compress.RandK(0.1), gw.compress.Natural()), r"RandK\(density=0.1.*may expand .* scaled"),
        (
            lambda: Induced(gw.compress.TopK(0.1), gw.compress.TopK(0.1)),
            r"corrects by an unbiased operator, and TopK\(density=0.1",
        ),
        (lambda: Induced(gw.compress.TopK(0.1), Long()), r"induced takes .* one length, and those of Long\(\) differ"),
        (lambda: Induced(Long(), gw.compress.Natural()), "induced takes"),
        (
            lambda: Chain(gw.compress.TopK(0.1, "natural"), gw.compress.Natural()),
            "leave its own format alone, got values='natural'",
        ),
        (lambda: Chain(gw.compress.TopK(0.1), Long()), "chain takes"),
        (lambda: Blockwise(Long(), 8), "blockwise takes"),
        (lambda: Blockwise(gw.compress.Natural(), 0), "size must be .* at least 1, got 0"),
        (lambda: Blockwise(gw.compress.Natural(), True), "size must be .* at least 1, got True"),
        (lambda: Blockwise(gw.compress.Natural(), 2.5), "size must be .* at least 1, got 2.5"),
        (lambda: gw.compress.Scaled(Long()), "scaled takes"),
    ],
)
def test_what_does_not_fit_is_refused(make: type, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Induced(0.1, gw.compress.Natural()), "induced is made of compressors, got 0.1"),
        (
            lambda: Chain(gw.compress.Natural(), gw.compress.Natural()),
            r"starts with a sparsifier, topk or randk, got Natural\(\)",
        ),
        (lambda: Chain(gw.compress.TopK(0.1), "natural"), "chain is made of compressors, got 'natural'"),
        (lambda: Blockwise(8, 8), "blockwise is made of compressors, got 8"),
    ],
)
def test_what_is_no_part_is_refused(make: type, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        make()
