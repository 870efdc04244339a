"""GPU twins give what their references give: on a GPU if there is one, otherwise in Triton's interpreter on the CPU.

Collected by name only: test_gpu.py runs this file in a process of its own, because TRITON_INTERPRET=1 must be set
before Triton is imported. By hand: TRITON_INTERPRET=1 pytest tests/gpu_twins.py, or without it on a machine with a GPU.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import test_kernels
import torch
from torch import Tensor

from gradwire import kernels
from gradwire.kernels import gpu, reference
from gradwire.wire import bits, index, natural, values

REAL = torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1"
DEVICE = torch.device("cuda" if REAL else "cpu")

if not REAL and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)

from gradwire.kernels.gpu import chunks, selection

KINDS = ["normal", "ties", "scales", "zeros", "few", "tiny and huge", "rising"]


@pytest.fixture(autouse=True)
def _served() -> Iterator[None]:
    """Without a GPU, vectors in the host's memory count as a GPU's, with blocks small enough for the
    slow interpreter.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not REAL:
            patch.setattr(gpu, "on_gpu", lambda x: True)
        yield


@pytest.fixture(params=["small", "as shipped"])
def sizes(request: pytest.FixtureRequest) -> Iterator[str]:
    """Blocks and samples have 256 elements, so short vectors reach their ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "LONG", 0)
        if request.param == "small":
            patch.setattr(chunks, "BLOCK", 256)
            patch.setattr(selection, "SAMPLE", 256)
        yield request.param


def vector(d: int, kind: str, seed: int = 0) -> Tensor:
    return test_kernels.vector(d, kind, seed=seed).to(DEVICE)


def same(found: Tensor, wanted: Tensor) -> bool:
    return found.dtype == wanted.dtype and found.device == wanted.device and torch.equal(found, wanted)


# ---- selection


@pytest.mark.parametrize("d", [1, 256, 300])
def test_every_kind_is_selected_as_the_reference_does(d: int, sizes: str) -> None:
    """All kinds are in one vector, because a launch in the interpreter takes long."""
    x = torch.cat([vector(d, kind) for kind in KINDS])
    assert gpu.serves(x)
    spans = [(i * d, i * d + d) for i in range(len(KINDS))]
    for k in sorted({0, 1, d // 50, d // 4, d - 1, d}) if sizes == "small" else (1, d // 5):
        ks = [k] * len(KINDS)
        assert same(kernels.segmented_topk(x, spans, ks), reference.segmented_topk(x, spans, ks)), k


@pytest.mark.parametrize("kind", KINDS)
def test_top_is_the_reference(kind: str) -> None:
    x = vector(5000, kind)
    for k in (0, 1, 50, 5000):
        assert same(kernels.topk(x, k), reference.topk(x, k)), k


@pytest.mark.parametrize("kind", ["normal", "few"])
def test_top_of_a_long_vector(kind: str) -> None:
    """The vector is long enough to guess from a sample, with chunks of the real size."""
    x = vector(selection.LONG + 5, kind)
    assert same(kernels.topk(x, 700), reference.topk(x, 700))


def test_top_when_the_sample_misleads(sizes: str) -> None:
    """A sample of large elements only leads to a threshold that too few pass; they are selected again, with the same
    result.
    """
    d, k = (5000, 40) if sizes == "small" else (20_000, 90)
    x, lane = vector(d, "normal"), torch.arange(selection.SAMPLE, device=DEVICE)
    x[lane * d // selection.SAMPLE + lane * 7919 % (d // selection.SAMPLE)] *= 1000
    bits_of, pieces = x.view(torch.int32), chunks.cut([(0, d)], x)
    few = int((x.abs().view(torch.int32) > selection._guess(bits_of, pieces, [k])).sum())
    assert few < k
    assert same(kernels.topk(x, k), reference.topk(x, k))


def test_a_surplus_of_one_equal_is_counted() -> None:
    """If all are equal except one that is larger or smaller, the first ones win, wherever chunks begin."""
    x = torch.ones(2 * chunks.BLOCK + 1, device=DEVICE)
    x[chunks.BLOCK], x[-1] = 2.0, 0.5
    for k in (1, 2, chunks.BLOCK + 1, len(x) - 1):
        assert same(kernels.topk(x, k), reference.topk(x, k))


LAYERS = [(5, 900), (900, 900), (4000, 4001), (1000, 3000), (3000, 3256), (0, 5), (3256, 4000)]


@pytest.mark.parametrize("ks", [[10, 0, 1, 100, 3, 1, 0], [895, 0, 0, 1, 256, 2, 700], [0] * 7, [1, 0, 1, 1, 1, 1, 1]])
def test_tops_is_the_reference(ks: list[int], sizes: str) -> None:
    """The spans are apart, in any order, empty or as long as a chunk; budgets are nothing, all, and between."""
    x = vector(5000, "ties")
    assert same(kernels.segmented_topk(x, LAYERS, ks), reference.segmented_topk(x, LAYERS, ks))


def test_tops_of_many_layers(sizes: str) -> None:
    x = vector(20 * 7 + 2000, "normal")
    spans = [(7 * i, 7 * i + 7) for i in range(20)] + [(140, 2140)]
    for ks in ([1] * 20 + [40], [i % 8 for i in range(20)] + [0]):
        assert same(kernels.segmented_topk(x, spans, ks), reference.segmented_topk(x, spans, ks))


def test_tops_of_nothing() -> None:
    for spans, ks in (([], []), ([(0, 0)], [0]), ([(2, 2), (0, 0)], [0, 0]), ([(0, 3), (3, 5)], [0, 0])):
        assert kernels.segmented_topk(torch.ones(5, device=DEVICE), spans, ks).tolist() == []


@pytest.mark.parametrize(("spans", "ks"), [([(0, 6)], [1]), ([(-1, 5)], [1]), ([(5, 4)], [0]), ([(0, 5)], [6])])
def test_selection_stays_inside_the_vector(spans: list[tuple[int, int]], ks: list[int]) -> None:
    x = torch.ones(5, device=DEVICE)
    with pytest.raises(ValueError, match="does not fit the vector"):
        kernels.segmented_topk(x, spans, ks)
    with pytest.raises(ValueError, match="every span needs its k, got 1 spans and 0 ks"):
        kernels.segmented_topk(x, spans, [])


@pytest.mark.parametrize("kind", KINDS)
def test_passing_is_a_comparison(kind: str) -> None:
    """The thresholds also lie between two float32, and beyond all of them."""
    x = vector(5000, kind)
    for least in (-1.0, 0.0, 1e-50, 1e-45, 0.7, 1.0, 3.4e38, 1e39, math.inf, math.nan):
        assert same(kernels.indices_above(x, least), reference.indices_above(x, least)), least
        assert kernels.indices_above(x[:0], least).tolist() == []


@pytest.mark.parametrize("scale", [0.0, 2.0**-140, 1.0, 2.0**100])
def test_norms_are_exact_at_every_scale(scale: float, sizes: str) -> None:
    x = vector(6000, "scales").div_(1e6).mul_(scale)
    spans = [(0, 10), (10, 10), (10, 1034), (1034, 4000), (4000, 6000), (0, 6000)]
    exact = [math.sqrt(math.fsum(value * value for value in x[start:end].tolist())) for start, end in spans]
    assert kernels.norms(x, spans) == pytest.approx(exact, rel=1e-12, abs=0)
    assert kernels.norms(x, []) == []
    assert kernels.norms(x[:0], [(0, 0)]) == [0.0]
    with pytest.raises(ValueError, match="a span does not fit the vector"):
        kernels.norms(x, [(0, 6001)])


@pytest.mark.parametrize("shape", [(3, 1100), (2, 1, 1024), (4, 10)])
def test_rows_are_selected_one_by_one(shape: tuple[int, ...]) -> None:
    """Rows are just long enough for a chunk each, or shorter, and then torch selects."""
    x = vector(math.prod(shape), "ties").view(shape)
    for k in (0, 1, shape[-1] // 9, shape[-1]):
        assert same(kernels.topk(x, k), reference.topk(x, k)), k


# ---- messages


@pytest.mark.parametrize("shape", [(3, 8), (2, 2, 40), (3, 5)])
@pytest.mark.parametrize("width", [1, 3, 8, 33])
def test_bits_of_rows_are_the_wires(shape: tuple[int, ...], width: int) -> None:
    """Rows that end on a byte are packed as one vector, others by torch."""
    given = torch.randint(0, 2**width, shape, generator=seeded()).to(DEVICE)
    wire = on_host(bits.pack, given, width)
    assert same(bits.pack(given, width), wire)
    assert same(bits.unpack(wire, width, shape[-1]), given)
    flags = (given & 1).byte()
    wire = on_host(bits.pack_flags, flags)
    assert same(bits.pack_flags(flags), wire)
    assert same(bits.unpack_flags(wire, shape[-1]), flags)


@pytest.mark.parametrize("k", [0, 1, 9, 1025])
@pytest.mark.parametrize("width", [1, 3, 7, 8, 13, 31, 33, 57, 62])
def test_bits_are_the_wires(k: int, width: int) -> None:
    given = torch.randint(0, 2**width, (k,), generator=seeded()).to(DEVICE)
    wire = on_host(bits.pack, given, width)
    assert same(bits.pack(given, width), wire)
    assert same(gpu.pack(given | -1 << width, width), wire)
    assert same(bits.unpack(wire, width, k), given)


@pytest.mark.parametrize("k", [0, 1, 8, 9, 9000])
def test_flags_and_signs_are_the_wires(k: int) -> None:
    flags = torch.randint(0, 2, (k,), generator=seeded()).byte().to(DEVICE)
    wire = on_host(bits.pack_flags, flags)
    assert same(bits.pack_flags(flags), wire)
    assert same(bits.unpack_flags(wire, k), flags)
    x = torch.cat([vector(k, "tiny and huge"), torch.tensor([0.0, -0.0, -1e-45], device=DEVICE)])
    assert same(gpu.pack_flags(x), on_host(bits.pack_flags, (x < 0).byte()))


@pytest.mark.parametrize("d", [1, 7, 33, 20_000])
def test_bitmaps_make_elias_and_fanos_code(d: int) -> None:
    for k in sorted({0, 1, d // 100, d // 2, d}):
        indices = torch.randperm(d, generator=seeded())[:k].sort().values
        wire = index.encode(indices.to(DEVICE), d)
        assert same(wire, on_host(index.encode, indices, d)), k
        assert same(index.decode(wire, d, k), indices.to(DEVICE))


@pytest.mark.parametrize("k", [0, 1, 8, 9, 2000])
def test_natural_rounds_by_the_coins_of_its_key(k: int) -> None:
    """Both zeros, subnormals and the largest value are among the inputs."""
    x = vector(k, "normal") * 10.0 ** torch.randint(-45, 39, (k,), generator=seeded()).to(DEVICE)
    x = torch.cat([x.clamp_(-3.4e38, 3.4e38), torch.tensor([0.0, -0.0, 2.0**-126, 1e-45, -3.4e38], device=DEVICE)])
    for key in (0, -77, 2**64 - 5):
        wire = values.encode(x, "natural", key)
        assert same(wire, torch.cat([natural.exponents(x, key), on_host(bits.pack_flags, torch.signbit(x).byte())]))
    decoded = values.decode(wire, "natural", len(x))
    assert same(decoded.view(torch.int32), on_host(values.decode, wire, "natural", len(x)).view(torch.int32))


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_messages_are_added_in_their_order(alpha: float) -> None:
    """Large and small values, whose sum depends on the order, are added one message after the other."""
    d, target = 3000, vector(3000, "normal")
    messages = [
        (torch.randperm(d, generator=seeded(i))[: 500 * i].to(DEVICE), vector(500 * i, "scales", seed=i))
        for i in range(4)
    ]
    wanted = target.clone()
    for indices, added in messages:
        wanted[indices] += added * alpha
    together = kernels.scatter_add_(target.clone(), *map(torch.cat, zip(*messages, strict=True)), alpha)
    gpu.add_(target, messages, alpha)
    assert same(target, wanted)
    assert same(together, wanted)


@pytest.mark.parametrize("m", [0, 1, 2500])
def test_what_comes_again_is_added_in_order(m: int) -> None:
    """Runs of about 25 equal indices cross the ends of blocks."""
    indices, added = torch.randint(0, 100, (m,), generator=seeded()).to(DEVICE), vector(m, "scales")
    target = vector(101, "normal")
    wanted = on_host(reference.scatter_add_, target.clone(), indices, added, 0.3)
    assert kernels.scatter_add_(target, indices, added, 0.3) is target
    assert same(target, wanted)
    with pytest.raises(ValueError, match=f"got {m} indices and {m + 1} values"):
        kernels.scatter_add_(target, indices, vector(m + 1, "normal"))


def on_host(work: Callable[..., Tensor], *given: Any) -> Tensor:
    """Return what the same call gives in the host's memory, where other loops run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "on_gpu", lambda x: False)
        return work(*[one.cpu() if isinstance(one, Tensor) else one for one in given]).to(DEVICE)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- on a GPU only


@pytest.mark.skipif(not REAL, reason="no GPU")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [1_000_003, 30_000_000])
def test_top_and_tops_of_what_trains(d: int, kind: str) -> None:
    x = vector(d, kind)
    for k in (d // 1000, d // 100, d // 3):
        found = kernels.topk(x, k)
        assert same(found, reference.topk(x, k))
        assert same(found, kernels.topk(x, k))
    edges = [0, *torch.randint(0, d, (300,), generator=seeded()).sort().values.tolist(), d]
    spans = list(itertools.pairwise(edges))
    ks = [(end - start) // 50 for start, end in spans]
    assert same(kernels.segmented_topk(x, spans, ks), reference.segmented_topk(x, spans, ks))
    assert kernels.norms(x, spans) == kernels.norms(x, spans)
    assert kernels.norms(x, spans) == pytest.approx(reference.norms(x, spans), rel=1e-12)


@pytest.mark.skipif(not REAL, reason="no GPU")
def test_places_behind_two_to_the_31st() -> None:
    if torch.cuda.mem_get_info()[0] < 40e9:
        pytest.skip("needs 40 GB of a GPU's memory")
    x = torch.zeros(2**31 + 5000, device=DEVICE)
    far = torch.arange(2**31 - 3, len(x), 7, device=DEVICE)
    x[far] = 1.0
    assert same(kernels.topk(x, len(far)), far)
    assert same(gpu.indices_above(x, 0.5), far)
