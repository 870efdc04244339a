"""The laboratory's engine: methods by name, descents and what they report, the same on real ranks, figures."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import pytest
import torch

from gradwire.lab import records, remote
from gradwire.lab.convex import descent, theory
from gradwire.lab.convex.descent import DIVERGED, Mark, Trace
from gradwire.lab.convex.methods import METHODS, ConvexMethod, compose
from gradwire.lab.convex.on_ranks import Descent, descend_on_ranks
from gradwire.lab.convex.problems import Problem, make
from gradwire.lab.studies import figures
from gradwire.spec import build

CONTRACTIVE = ("ef14", "ef21", "ef_bv", "ef21_sgdm")
"""Methods that are run with Top-k here, the others with Rand-k."""

UNPROVED = ("ef14", "ef21_sgdm")
"""Methods without a Lyapunov function."""

NO_DRAWS = ("gd", *CONTRACTIVE)
"""Methods that draw nothing, over Top-k."""


@pytest.fixture(scope="module")
def quadratic() -> Problem:
    return make("quadratic", workers=4, d=20)


@pytest.fixture(scope="module")
def ridge() -> Problem:
    return make("ridge")


def fitting(name: str, problem: Problem) -> ConvexMethod:
    """Return a method with an operator that it takes, at its theorem's step, or at 1 / (4 L) if it has no theorem."""
    operator = build("topk(density=0.5)" if name in CONTRACTIVE else "randk(density=0.5)")
    biased = build("topk(density=0.3)") if name == "generalised_diana" else None
    return compose(name, problem, operator, biased=biased, step=1 / (4 * problem.L) if name == "ef14" else None)


# Descents beside their theorems.


@pytest.mark.parametrize("make_problem", ["quadratic", "ridge"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_to_its_theorem(name: str, make_problem: str, request: pytest.FixtureRequest) -> None:
    """Theorems bound the mean of all runs. One run of 400 rounds stays below, because constants are
    for the worst case.
    """
    problem: Problem = request.getfixturevalue(make_problem)
    method = fitting(name, problem)
    trace = descent.descend(problem, method, 400, every=10)
    assert [mark.round for mark in trace.marks] == list(range(0, 401, 10))
    assert trace.marks[-1].error < 0.8
    if isinstance(method.plan and method.plan.lyapunov, theory.Distance):
        # Rounding: gradient descent reaches its bound in the direction of mu.
        assert figures.curve("", "", problem, trace).facts.worst <= 1 + 1e-9
    else:
        assert (name in UNPROVED) == (method.plan is None or method.plan.lyapunov is None)
    if method.plan is not None and isinstance(method.plan.lyapunov, theory.Gap):
        bound = gap_bound(problem, method.plan)
        assert all(mark.error <= method.plan.rate**mark.round * bound for mark in trace.marks)


def gap_bound(problem: Problem, plan: theory.TheoryPlan) -> float:
    """Return V(0) of zero memories as a bound on the error, by f(x) - f(x*) >= (mu / 2) |x - x*|^2."""
    gap = problem.loss(problem.start) - problem.loss(problem.best)
    gradients = problem.gradients(problem.start)
    V = plan.lyapunov(gap, torch.zeros_like(gradients), gradients)
    return (V / (problem.mu / 2 * (problem.start - problem.best).square().sum())).item()


def test_methods_that_converge_end_at_what_float64_can_hold(quadratic: Problem) -> None:
    """The variance vanishes with the shifts, so DIANA, unlike DCGD, falls below any noise."""
    ends = {}
    for name in ("dcgd", "diana", "vr_gdci"):
        ends[name] = descent.descend(quadratic, fitting(name, quadratic), 10_000, until=1e-20)
    assert ends["dcgd"].plateau > 1e-6
    for name in ("diana", "vr_gdci"):
        assert ends[name].marks[-1].error <= 1e-20
        assert ends[name].marks[-1].round < 10_000
        assert ends[name].contraction() <= ends[name].method.plan.rate


@pytest.mark.parametrize("name", METHODS)
def test_batched_and_lockstep_are_the_same_descent(name: str, quadratic: Problem) -> None:
    method = fitting(name, quadratic)
    fast = descent.descend(quadratic, method, 60, every=20, seed=3)
    slow = descent.descend(quadratic, method, 60, every=20, seed=3, transport="lockstep")
    assert [(m.round, m.bytes, m.traffic) for m in fast.marks] == [(m.round, m.bytes, m.traffic) for m in slow.marks]
    if name in NO_DRAWS:
        # Both sum over workers in float64, maybe in another order.
        assert [mark.error for mark in fast.marks] == pytest.approx([mark.error for mark in slow.marks], rel=1e-12)
    else:
        # Other draws of the same distribution: an error of about 0.1 that strays by a few percent.
        # Local steps have brought it to 1e-4 by then, and it strays by more.
        most = 8 if name == "locodl" else 2
        assert 1 / most < fast.marks[-1].error / slow.marks[-1].error < most


def test_seeds_decide_the_draws(quadratic: Problem) -> None:
    method = fitting("diana", quadratic)
    ends = [descent.descend(quadratic, method, 20, seed=seed).marks[-1].error for seed in (0, 0, 1)]
    assert ends[0] == ends[1] != ends[2]


def test_a_descent_ends_early_where_it_is_told_to_and_where_it_diverges(quadratic: Problem) -> None:
    heard: list[Mark] = []
    trace = descent.descend(quadratic, fitting("gd", quadratic), 1000, every=1, until=1e-3, listen=heard.append)
    assert tuple(heard) == trace.marks
    assert trace.marks[-1].error <= 1e-3 < trace.marks[-2].error
    steep = compose("gd", quadratic, build("identity"), step=10 / quadratic.L)
    trace = descent.descend(quadratic, steep, 1000, every=1)
    assert trace.marks[-1].error >= DIVERGED > trace.marks[-2].error


@pytest.mark.parametrize(("rounds", "every"), [(0, None), (-1, 1), (10, 0)])
def test_rounds_and_marks_are_positive(rounds: int, every: int | None, quadratic: Problem) -> None:
    with pytest.raises(ValueError, match="rounds and every must be at least 1"):
        descent.descend(quadratic, fitting("gd", quadratic), rounds, every=every)


# What a trace tells.


def traced(method: ConvexMethod, errors: list[float]) -> Trace:
    return Trace(method, tuple(Mark(k, error, 10 * k, 40 * k) for k, error in enumerate(errors)), 1.0)


def test_a_trace_tells_contraction_plateau_and_first_arrival(quadratic: Problem) -> None:
    trace = traced(fitting("gd", quadratic), [max(0.9**k, 1e-10) for k in range(1001)])
    assert trace.contraction() == pytest.approx(0.9, rel=1e-9)
    assert trace.plateau == pytest.approx(1e-10, rel=1e-9)
    first = trace.first_below(0.5)
    assert first is not None
    assert (first.round, first.bytes) == (7, 70)  # 0.9^6 = 0.53
    assert trace.first_below(1e-11) is None


def test_what_does_not_fall_has_no_contraction(quadratic: Problem) -> None:
    method = fitting("gd", quadratic)
    assert math.isnan(traced(method, [1.0] * 50).contraction())
    assert traced(method, [1.0] * 50).plateau == 1.0


def test_an_error_of_zero_has_a_contraction_too(quadratic: Problem) -> None:
    assert traced(fitting("gd", quadratic), [0.5**k for k in range(20)] + [0.0] * 80).contraction() == pytest.approx(
        0.5
    )


# Refusals.


@pytest.mark.parametrize(
    ("name", "operator", "options", "message"),
    [
        ("dianna", "natural", {}, "unknown method 'dianna'; did you mean 'diana'?"),
        ("zzz", "natural", {}, "unknown method 'zzz'; known are gd, dcgd"),
        ("diana", "natural", {"biased": "topk(density=0.1)"}, "diana takes one operator"),
        ("generalised_diana", "natural", {}, "needs a biased operator"),
        ("diana", "natural", {"step": 0.0}, "step must be positive and finite, got 0.0"),
        ("diana", "natural", {"step": -1.0}, "step must be positive and finite, got -1.0"),
        ("diana", "natural", {"step": float("inf")}, "step must be positive and finite, got inf"),
        ("diana", "natural", {"step": float("nan")}, "step must be positive and finite, got nan"),
        ("diana", "natural", {"alpha": 2.0}, "alpha must lie in"),
        ("diana", "natural", {"p": 0.5}, "got p"),
        ("ef14", "topk(density=0.1)", {}, "ef14 has no plan"),
        ("diana", "topk(density=0.1)", {}, "needs an unbiased operator"),
        ("gdci", "topk(density=0.1)", {"step": 0.1}, "without a theorem there is no gamma"),
        ("ef21", "randk(density=0.1)", {}, "needs a contractive operator"),
        ("ef14", "randk(density=0.1)", {"step": 0.1}, "needs a contractive operator"),
    ],
)
def test_what_does_not_fit_is_refused(
    name: str, operator: str, options: dict[str, object], message: str, quadratic: Problem
) -> None:
    if "biased" in options:
        options = {**options, "biased": build(options["biased"])}
    with pytest.raises(ValueError, match=re.escape(message)):
        compose(name, quadratic, build(operator), **options)


def test_a_step_of_ones_own_leaves_the_other_parameters_to_theory(quadratic: Problem) -> None:
    own = compose("vr_gdci", quadratic, build("natural"), step=0.01)
    assert own.step == 0.01
    assert own.exchange == compose("vr_gdci", quadratic, build("natural")).exchange
    assert compose("ef14", quadratic, build("topk(density=0.1)"), step=0.01).plan is None


# On real ranks.


@pytest.mark.story
@pytest.mark.parametrize(
    ("method", "compressor", "sums"),
    [
        ("diana", "randk(density=0.25)", False),
        ("locodl", "natural", False),
        ("rand_diana", "randk(density=0.25)", True),
        ("marina", "randk(density=0.25)", True),
    ],
)
def test_four_processes_go_where_the_laboratory_goes(method: str, compressor: str, sums: bool) -> None:
    asked = Descent("quadratic", method, compressor, workers=4, rounds=60, every=20, seed=5, options={"d": 20})
    problem, composed = asked.make()
    want = descent.descend(problem, composed, 60, every=20, seed=5, transport="lockstep").marks
    seconds, marks = zip(*((each.seconds, each.mark) for each in descend_on_ranks(asked)), strict=True)
    assert list(seconds) == sorted(seconds)
    assert [(mark.round, mark.bytes) for mark in marks] == [(mark.round, mark.bytes) for mark in want]
    if sums:
        # gloo sums in an order of its own, and what then is rounded to float32 may fall to the other side.
        assert [mark.error for mark in marks] == pytest.approx([mark.error for mark in want], rel=1e-9)
    else:
        assert [mark.error for mark in marks] == [mark.error for mark in want]


@pytest.mark.story
def test_workers_refuse_a_bad_descent_in_one_sentence() -> None:
    asked = Descent("quadratic", "diana", "topk(density=0.1)", workers=2, rounds=1, options={"d": 20})
    with pytest.raises(remote.Failed, match="needs an unbiased operator") as refused:
        descend_on_ranks(asked)
    assert refused.value.code == 2


def test_descents_travel_as_text() -> None:
    asked = Descent("ridge", "star", "natural", 4, 10, biased="topk(density=0.1)", step=0.5, options={"penalty": None})
    assert records.from_json(Descent, records.to_json(asked), "the descent") == asked
    assert "\n" not in records.to_json(asked)
    with pytest.raises(ValueError, match="mean is not a compressor"):
        Descent("quadratic", "diana", "mean", 4, 10).make()


# Figures.


@pytest.fixture(scope="module")
def figure(quadratic: Problem) -> figures.Figure:
    """Make a figure of two methods in a panel. EF14 has no theorem, and GD's seconds are set."""
    curves = []
    for name in ("gd", "ef14"):
        trace = descent.descend(quadratic, fitting(name, quadratic), 40, every=10)
        seconds = tuple(float(mark.round) for mark in trace.marks) if name == "gd" else ()
        curves.append(figures.curve("a panel, with a comma", name, quadratic, trace, seconds))
    return figures.Figure("small", "A title", "A caption", tuple(curves))


def test_a_figure_is_written_as_numbers(figure: figures.Figure, tmp_path: Path) -> None:
    command = "gradwire lab figure small --output 'a folder'"
    table, record = figures.write(figure, tmp_path, command)
    with table.open(newline="") as file:
        lines = list(csv.DictReader(file))
    want = [(line.panel, line.label, mark) for line in figure.curves for mark in line.marks]
    assert len(lines) == len(want) == 10
    for line, (panel, label, mark) in zip(lines, want, strict=True):
        assert (line["panel"], line["label"]) == (panel, label)
        read = Mark(int(line["round"]), float(line["error"]), int(line["bytes"]), int(line["traffic"]))
        assert read == mark  # to the last digit
        assert line["seconds"] == (str(float(mark.round)) if label == "gd" else "")
    about = json.loads(record.read_text(), parse_constant=pytest.fail)  # neither NaN nor Infinity
    assert about["command"] == command
    assert set(about["versions"]) == {"gradwire", "torch", "python", "machine", "loops"}
    assert [curve["method"] for curve in about["curves"]] == ["gd", "ef14"]
    assert about["curves"][0]["facts"]["worst"] <= 1 + 1e-9
    assert about["curves"][1]["facts"]["rate"] is None


def test_numbers_that_json_does_not_know_are_written_as_words(quadratic: Problem, tmp_path: Path) -> None:
    flat = figures.curve("", "", quadratic, traced(fitting("gd", quadratic), [1.0] * 8 + [math.inf]))
    _, record = figures.write(figures.Figure("flat", "", "", (flat,)), tmp_path, "")
    (written,) = json.loads(record.read_text(), parse_constant=pytest.fail)["curves"]
    assert written["facts"]["contraction"] is None
    assert written["facts"]["plateau"] == "inf"


def test_a_figure_is_drawn(figure: figures.Figure, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figures.draw(figure, tmp_path / "small.png")
    assert (tmp_path / "small.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


LABELS = {
    "DCGD": "dcgd",
    "DCGD-FIXED": "fixed",
    "DCGD-STAR": "star",
    "DCGD-STAR + Top-k": "star",
    "DIANA": "diana",
    "DIANA, K twice": "diana",
    "generalised DIANA": "generalised_diana",
    "Rand-DIANA": "rand_diana",
    "GDCI": "gdci",
    "VR-GDCI": "vr_gdci",
    "gradient descent": "dcgd",
    "DIANA, natural": "diana",
    "local steps, uncompressed": "locodl",
    "LoCoDL, natural": "locodl",
    "LoCoDL, Rand-K 50 %": "locodl",
    "LoCoDL, Rand-K 10 %": "locodl",
}
TASKS = {
    "ridge-table": 18,
    "randk": 18,
    "dithering": 18,
    "rand-diana": 10,
    "gdci": 6,
    "induced": 6,
    "logistic": 12,
    "locodl": 12,
}


@pytest.mark.parametrize("name", figures.FIGURES)
def test_every_sheet_runs_the_methods_that_it_names(name: str) -> None:
    try:
        sheet = figures.plan(name, 0)
    except (ModuleNotFoundError, FileNotFoundError) as missing:
        pytest.skip(str(missing))
    assert sheet.name == name
    assert len(sheet.curves) == TASKS[name]
    assert len({(task.panel, task.label) for task in sheet.curves}) == len(sheet.curves)
    for task in sheet.curves:
        assert task.method.name == ("rand_diana" if name == "rand-diana" else LABELS[task.label])
        trace = descent.descend(task.problem, task.method, 3)
        assert all(math.isfinite(mark.error) for mark in trace.marks)
        assert figures.curve(task.panel, task.label, task.problem, trace).facts.step == task.method.step
