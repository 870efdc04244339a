"""Every kernel has a short reference, and every twin gives the same, on vectors and on rows."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import pkgutil
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradwire.kernels
import gradwire.wire
from gradwire.kernels import compiled
from gradwire.kernels.kernel import Kernel
from gradwire.kernels.rounding import FIVES
from gradwire.wire import bits, classes, index, levels, natural, signs, trits

Arguments = tuple[Any, ...]
Draw = Callable[[st.DataObject], Arguments]


def records() -> dict[str, Kernel[..., Any]]:
    """Return all kernels, by the module that defines them and their name there."""
    found: dict[str, Kernel[..., Any]] = {}
    for package in (gradwire.kernels, gradwire.wire):
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            if not module.ispkg:
                file = importlib.import_module(module.name)
                for name, value in vars(file).items():
                    if isinstance(value, Kernel) and f"\n{name} = Kernel(" in inspect.getsource(file):
                        found[f"{module.name.rsplit('.', 1)[1]}.{name}"] = value
    return found


KERNELS = records()


@pytest.fixture(scope="module", autouse=True)
def _any_length() -> Iterator[None]:
    """Let the compiled loops serve vectors of any length."""
    pytest.importorskip("numba")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "LONG", 1)
        patch.setattr(compiled, "SHORT", 1)
        yield


# What kernels are called with


def shape(data: st.DataObject, most: int = 200) -> tuple[int, ...]:
    rows = data.draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    return (*rows, data.draw(st.integers(1, most)))


def floats(data: st.DataObject, size: tuple[int, ...]) -> torch.Tensor:
    x = torch.randn(size, generator=seeded(data))
    kind = data.draw(st.sampled_from(["normal", "ties", "zeros", "scales", "float64"]))
    x = {"ties": (2 * x).round(), "zeros": 0.0 * x, "scales": x * 10.0 ** (6 * x).round().clamp(-30, 30)}.get(kind, x)
    return x.double() if kind == "float64" else x


def seeded(data: st.DataObject) -> torch.Generator:
    return torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))


def key(data: st.DataObject) -> int:
    return data.draw(st.integers(0, 2**63 - 1))


def spans(data: st.DataObject, d: int) -> list[tuple[int, int]]:
    edges = sorted(data.draw(st.lists(st.integers(0, d), max_size=12)))
    return list(zip(edges[::2], edges[1::2], strict=False))


def vector_and_spans(data: st.DataObject) -> Arguments:
    x = floats(data, (300,))
    return x, spans(data, 300)


def vector_spans_and_ks(data: st.DataObject) -> Arguments:
    x, found = vector_and_spans(data)
    return perhaps_narrow(data, x), found, [data.draw(st.integers(0, end - start)) for start, end in found]


def rows_and_k(data: st.DataObject) -> Arguments:
    x = perhaps_narrow(data, floats(data, shape(data)))
    return x, data.draw(st.integers(0, x.shape[-1]))


def perhaps_narrow(data: st.DataObject, x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16() if data.draw(st.booleans()) else x


def half_and_key(data: st.DataObject) -> Arguments:
    x, drawn = finite_and_key(data)
    x.view(-1)[-1] = data.draw(st.sampled_from([1.0, -math.inf, math.nan, 3.4e38, 1e-41, -0.0]))
    return torch.zeros(x.shape, dtype=torch.bfloat16), x, drawn


def pieces(data: st.DataObject) -> Arguments:
    d = data.draw(st.integers(1, 100))
    middle = data.draw(st.integers(0, d))
    indices = torch.randint(d, (20,), generator=seeded(data)).sort().values
    return torch.zeros(200), indices, torch.randn(20, generator=seeded(data)), [middle, d], [100, -1]


def sparse(data: st.DataObject) -> Arguments:
    d, k = data.draw(st.integers(1, 300)), data.draw(st.integers(0, 50))
    x = torch.randn(d, generator=seeded(data))
    return x, torch.randint(d, (k,), generator=seeded(data)), torch.randn(k, generator=seeded(data)), 0.3


def few_bits(data: st.DataObject) -> tuple[torch.Tensor, int]:
    width = data.draw(st.sampled_from([1, 2, 3, 5, 8, 13, 32, 33, 62]))
    return torch.randint(0, 2**width, shape(data), generator=seeded(data)), width


def packed(data: st.DataObject) -> Arguments:
    x, width = few_bits(data)
    return bits.pack.reference(x, width), width, x.shape[-1]


def flags(data: st.DataObject) -> Arguments:
    return (torch.randint(0, 2, shape(data), generator=seeded(data)).byte(),)


def packed_flags(data: st.DataObject) -> Arguments:
    (x,) = flags(data)
    return bits.pack_flags.reference(x), x.shape[-1]


def increasing(data: st.DataObject) -> Arguments:
    d = data.draw(st.integers(1, 2000))
    k, rows = data.draw(st.integers(1, d)), data.draw(st.sampled_from([(), (3,)]))
    x = torch.rand((*rows, d), generator=seeded(data)).argsort(-1)[..., :k].sort(-1).values
    low, _ = index._plan(d, k)
    return x, d, low, *index._layout(d, k, low)


def increasing_bytes(data: st.DataObject) -> Arguments:
    x, d, *layout = increasing(data)
    return index.encode_gaps.reference(x, d, *layout), d, x.shape[-1], *layout


def finite_and_key(data: st.DataObject) -> Arguments:
    return floats(data, shape(data)), key(data)


def natural_bytes(data: st.DataObject) -> Arguments:
    x, drawn = finite_and_key(data)
    return natural.encode.reference(x, drawn), x.shape[-1]


def meaning(scale: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    return level.float().mul(scale)


def scaled(data: st.DataObject) -> tuple[torch.Tensor, torch.Tensor, int, int, int, bool]:
    x, s = floats(data, shape(data)), data.draw(st.sampled_from([1, 2, 7, 127, 128, 1000]))
    scale = x.abs().amax(-1, keepdim=True).float()
    return x, scale, s, key(data), levels._width(s), data.draw(st.booleans()) and s <= 127


def drawn_levels(data: st.DataObject) -> Arguments:
    x, scale, s, drawn, width, binary = scaled(data)
    return levels.draw_levels.reference(x, scale, s, drawn, width, binary), scale, s, width, x.shape[-1], meaning


def decoded_levels(data: st.DataObject) -> Arguments:
    x, scale, s, drawn, _, binary = scaled(data)
    return x, scale, s, drawn, binary, meaning


def three_values(data: st.DataObject) -> Arguments:
    x, scale, _, drawn, _, _ = scaled(data)
    return x, scale, 1, drawn, FIVES, False


def drawn_trits(data: st.DataObject) -> Arguments:
    x, scale, *rest = three_values(data)
    return trits.draw_trits.reference(x, scale, *rest), scale, x.shape[-1], meaning


def trits_of(data: st.DataObject) -> Arguments:
    x, scale, _, drawn, *_ = three_values(data)
    return x, scale, drawn


def classified(data: st.DataObject) -> Arguments:
    x, width = floats(data, shape(data)), data.draw(st.sampled_from([2, 4]))
    return x, width, *classes.divide(x, width)


def class_bytes(data: st.DataObject) -> Arguments:
    x, width, *rest = classified(data)
    table = torch.randn((*x.shape[:-1], 2 * classes.count(width)), generator=seeded(data))
    return classes.encode_classes.reference(x, width, *rest), width, table, x.shape[-1]


def sign_bytes(data: st.DataObject) -> Arguments:
    x = floats(data, shape(data))
    return signs.encode.reference(x), torch.rand((*x.shape[:-1], 1), generator=seeded(data)), x.shape[-1]


CALLS: dict[str, Draw] = {
    "above.indices_above": lambda data: (floats(data, (300,)), data.draw(st.sampled_from([-1.0, 0.0, 0.5, math.inf]))),
    "classes.decode_classes": class_bytes,
    "classes.encode_classes": classified,
    "copies.copy_": lambda data: (torch.zeros(300), floats(data, (300,))),
    "copies.scatter_": pieces,
    "copies.scatter_add_": sparse,
    "half.round_": half_and_key,
    "index.decode_gaps": increasing_bytes,
    "index.encode_gaps": increasing,
    "levels.decoded_levels": decoded_levels,
    "levels.draw_levels": scaled,
    "levels.read_levels": drawn_levels,
    "natural.decode": natural_bytes,
    "natural.decoded": finite_and_key,
    "natural.encode": finite_and_key,
    "norms.norms": vector_and_spans,
    "norms.row_norms": lambda data: (floats(data, shape(data)), data.draw(st.sampled_from([1.0, 2.0, 3.0]))),
    "packing.pack": few_bits,
    "packing.pack_flags": flags,
    "packing.unpack": packed,
    "packing.unpack_flags": packed_flags,
    "signs.decode_signs": sign_bytes,
    "signs.decoded": lambda data: (floats(data, shape(data)),),
    "signs.encode": lambda data: (floats(data, shape(data)),),
    "support.support": lambda data: (torch.tensor([key(data), 7]), 300, data.draw(st.integers(0, 300))),
    "topk.largest": rows_and_k,
    "topk.segmented_topk": vector_spans_and_ks,
    "trits.decoded_trits": trits_of,
    "trits.draw_trits": three_values,
    "trits.read_trits": drawn_trits,
    "uniforms.uniforms": lambda data: (
        key(data),
        shape(data),
        data.draw(st.sampled_from([torch.float32, torch.float64])),
        torch.device("cpu"),
    ),
}
"""Arguments of every kernel, as its callers may give them."""

SUMS = {"norms.norms", "norms.row_norms"}
"""Kernels that sum in an order of their own: within 1e-12 of the definition."""

MEANS = {"signs.decoded", "signs.encode"}
"""Kernels that round such a sum to float32, which may fall to the other side."""


def test_every_kernel_is_called_here() -> None:
    assert set(KERNELS) == set(CALLS)


@pytest.mark.parametrize("name", KERNELS)
def test_a_definition_is_short(name: str) -> None:
    """It has at most twenty lines of plain torch besides its docstring."""
    definition = KERNELS[name].reference
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(definition))).body
    assert isinstance(tree, ast.FunctionDef)
    assert tree.body[-1].end_lineno - tree.body[1].lineno + 1 <= 20
    assert definition.__doc__ == KERNELS[name].__doc__


@pytest.mark.parametrize("name", sorted(CALLS))
@settings(deadline=None, max_examples=40)
@given(st.data())
def test_twins_give_what_is_defined(name: str, data: st.DataObject) -> None:
    kernel, arguments = KERNELS[name], CALLS[name](data)
    wanted, changed = called(kernel.reference, arguments)
    for twin in kernel.cpu:
        if twin.serves(*arguments):
            found, written = called(twin.run, arguments)
            assert same(found, wanted, name), twin.by
            assert all(same(a, b, name) for a, b in zip(written, changed, strict=True)), twin.by
    assert same(called(kernel, arguments)[0], wanted, name)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_every_twin_serves_something(name: str) -> None:
    """It serves some of the arguments above; otherwise the test before would not cover it."""
    twins, served = KERNELS[name].cpu, set[str]()

    @settings(deadline=None, max_examples=100, database=None, derandomize=True)
    @given(st.data())
    def look(data: st.DataObject) -> None:
        arguments = CALLS[name](data)
        served.update(twin.by for twin in twins if twin.serves(*arguments))

    look()
    # Torch's sampling is for vectors longer than those here: test_kernels.py.
    assert served >= {twin.by for twin in twins} - {"torch"}


def called(run: Callable[..., Any], arguments: Arguments) -> tuple[Any, list[Any]]:
    """Return what a call gives, and its arguments after it."""
    mine = [one.clone() if isinstance(one, torch.Tensor) else one for one in arguments]
    return run(*mine), [one for one in mine if isinstance(one, torch.Tensor)]


def same(found: Any, wanted: Any, name: str) -> bool:
    if isinstance(wanted, tuple):
        return len(found) == len(wanted) and all(same(a, b, name) for a, b in zip(found, wanted, strict=True))
    if name in SUMS and not isinstance(wanted, torch.Tensor):
        return found == pytest.approx(wanted, rel=1e-12, abs=0)
    if not isinstance(wanted, torch.Tensor):
        return found == wanted
    if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
        return False
    if name in SUMS:
        return torch.allclose(found, wanted, rtol=1e-12, atol=0)
    if name in MEANS:
        return near(found, wanted)
    kinds = {torch.float32: torch.int32, torch.float64: torch.int64, torch.bfloat16: torch.int16}
    kind = kinds.get(found.dtype, found.dtype)
    return torch.equal(found.contiguous().view(kind), wanted.contiguous().view(kind))


def near(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Compare means that may differ by one float32, and signs that must be equal."""
    if found.dtype != torch.uint8:
        return torch.allclose(found, wanted, rtol=2.0**-23, atol=2.0**-149)
    means = [wire[..., :4].clone(memory_format=torch.contiguous_format).view(torch.float32) for wire in (found, wanted)]
    return torch.equal(found[..., 4:], wanted[..., 4:]) and near(*means)
