"""The shapes of the paper's models, its cost model on them, and the clock that measures what the model predicts."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

import gradwire as gw
from gradwire.lab.models import shapes
from gradwire.lab.studies import costs, selection

NS = (1, 2, 4, 8, 16, 32)

TABLE = {
    "resnet18": (
        [62, 62, 62, 83, 122, 279],
        [1.3, 2.5, 4.9, 11.0, 24.2, 58.1],
        ".00999 .00999 .00999 .0100 .0100 .0100",
    ),
    "lstm": ([14, 15, 17, 21, 29, 231], [1.2, 2.4, 4.6, 9.7, 17.8, 60.0], ".0010 .0010 .0010 .0010 .0010 .0010"),
    "neumf": ([12, 13, 18, 26, 57, 136], [1.1, 2.0, 4.3, 8.8, 18.9, 44.3], ".0981 .0988 .0995 .0997 .0999 .0999"),
}


@pytest.mark.parametrize(
    ("model", "d", "tensors"),
    [("resnet18", 11_173_962, 62), ("lstm", 28_949_319, 14), ("neumf", 31_832_577, 12), ("gpt2", 124_439_808, 148)],
)
def test_models_have_the_published_sizes(model: str, d: int, tensors: int) -> None:
    assert (shapes.MODELS[model].d, len(shapes.MODELS[model].names)) == (d, tensors)


@pytest.mark.parametrize("model", TABLE)
def test_the_cost_model_on_the_papers_shapes(model: str) -> None:
    """With norm = sqrt(size) in every layer L is exact, and speed-up and density agree with the table's digits."""
    layers, speedups, densities = TABLE[model]
    for n, count, speedup, density in zip(NS, layers, speedups, densities.split(), strict=True):
        found = costs.cost(shapes.MODELS[model], shapes.DENSITIES[model], n)
        assert found.layers == count
        assert round(found.speedup, 1) == speedup
        assert round(found.density, len(density) - 1) == float(density)


@pytest.mark.parametrize("model", TABLE)
@pytest.mark.parametrize("n", NS[1:])
def test_the_model_speeds_up_linearly_at_least(model: str, n: int) -> None:
    """Linear within 1 %: NeuMF at n = 2 has 1.99. f_trivial is no bound on real shapes: the LSTM is below it."""
    found = costs.cost(shapes.MODELS[model], shapes.DENSITIES[model], n)
    assert found.speedup >= 0.99 * n
    if (model, n) == ("lstm", 16):
        assert found.speedup < found.trivial


def test_equal_layers_meet_the_trivial_case() -> None:
    """n layers of 1000, k = 100 n, one layer to a worker: f = n log k / (log k - log n)."""
    n = 8
    layout = gw.Layout([f"p{i}" for i in range(n)], [(1000,)] * n)
    found = costs.cost(layout, 0.1, n)
    assert found.speedup == pytest.approx(found.trivial)
    assert found.trivial >= n
    assert found.heaviest == pytest.approx(1)


def test_more_workers_than_budget_have_no_trivial_case() -> None:
    assert costs.trivial(8, 8) == math.inf


def test_scales_belong_to_tensors() -> None:
    """A tensor's scale applies to all its pieces, and scaling all tensors by a power of two changes nothing."""
    layout = gw.Layout("ab", [(1000,), (10,)])
    assert costs.cost(layout, 0.1, 4, [4.0, 4.0]) == costs.cost(layout, 0.1, 4)
    with pytest.raises(ValueError, match="2 tensors need as many scales, got 1"):
        costs.cost(layout, 0.1, 4, [1.0])


def test_a_measurement_has_every_part_and_is_json() -> None:
    layout = gw.Layout("abc", [(300, 300), (7,), (9000,)])
    measured = selection.measure(layout, 0.01, (1, 3), repeats=2)
    assert json.loads(json.dumps(dataclasses.asdict(measured)))["k"] == measured.k == 990
    assert [(scale.n, scale.layers) for scale in measured.scales] == [(1, 3), (3, 5)]
    for scale in measured.scales:
        assert scale.ratio > 0
        assert scale.norms.median >= scale.norms.low > 0
        assert scale.plan >= scale.budgets.median + scale.packing.median > 0
        assert 0 < scale.even <= scale.ratio * 1.0001
        assert scale.read > 0
    assert measured.scales[0].fullest == 1.0
    assert measured.scales[0].richest == pytest.approx(1.0, abs=0.01)


def test_a_gradient_is_the_same_again_and_its_tensors_differ_in_scale() -> None:
    layout = gw.Layout("ab", [(5000,), (5000,)])
    x = selection.gradient(layout)
    assert torch.equal(x, selection.gradient(layout))
    assert not 0.9 < float(x[:5000].std() / x[5000:].std()) < 1.1


@pytest.mark.parametrize(("ns", "repeats"), [((), 1), ((1,), 0)])
def test_an_empty_measurement_is_refused(ns: tuple[int, ...], repeats: int) -> None:
    with pytest.raises(ValueError, match="needs workers and repeats"):
        selection.measure(gw.Layout("a", [(3,)]), 0.5, ns, repeats)
