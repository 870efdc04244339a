"""Studies: charts are made from runs, written as numbers and drawn."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gradwire.lab import studies
from gradwire.lab.models import shapes
from gradwire.lab.studies import breakdown, density, example, figures, local, scaling, searching, tasks
from gradwire.lab.studies.chart import thin
from gradwire.lab.studies.runs import run_all
from gradwire.lab.training import History, Training, train
from gradwire.layout import Layout


def one_after_the_other(steps: int):
    """Stands for `run_all`: short runs in this process."""

    def run(trainings: Sequence[Training], report: studies.Report) -> list[History]:
        found = [train(replace(training, steps=steps, evaluate_every=steps, batch=2)) for training in trainings]
        for _ in dict.fromkeys(trainings):
            report("done")
        return found

    return run


def check(chart: studies.Chart, folder: Path) -> None:
    """Every line is in a panel, and the file has the chart's numbers."""
    assert {line.panel for line in chart.lines} == {panel.title for panel in chart.panels}
    table, record = studies.write(chart, folder, "gradwire lab figure x")
    with table.open(newline="") as file:
        assert len(list(csv.reader(file))) == 1 + sum(len(line.x) for line in chart.lines)
    about = json.loads(record.read_text())
    assert about["facts"] == [dict(fact) for fact in chart.facts]
    assert about["command"] == "gradwire lab figure x"
    studies.draw(chart, folder / "chart.png")
    assert (folder / "chart.png").stat().st_size > 10_000


def test_windows_of_steps_become_their_means() -> None:
    assert thin([1.0, 3.0, 5.0, 7.0, 9.0], 2) == ((2.0, 4.0), (2.0, 6.0))


def test_the_example_is_the_golden_vector(tmp_path: Path) -> None:
    chart = example.example(0, lambda words: None)
    assert [fact["k"] for fact in chart.facts] == [6, 10, 10, 8, 6, 5, 4, 1, 4, 1]
    assert [fact["searched by"] for fact in chart.facts if fact["k"] == fact["elements"]] == ["sent whole"] * 3
    check(chart, tmp_path)


def test_scaling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "run_all", one_after_the_other(6))
    monkeypatch.setattr(scaling, "SIZES", (1, 3))
    told: list[str] = []
    chart = scaling.scaling(0, told.append)
    assert len(told) == 2 * len(scaling.METHODS)
    facts = {(fact["method"], fact["workers"]): fact for fact in chart.facts}
    assert facts["DEFT, exact", 3]["density"] == pytest.approx(1.0, abs=1e-3)
    assert facts["Top-k, union", 3]["density"] > 1.05
    check(chart, tmp_path)


def test_density(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(density, "run_all", one_after_the_other(3))
    told: list[str] = []
    check(density.density(0, told.append), tmp_path)
    assert len(told) == studies.STUDIES["deft-density"].pieces


@pytest.mark.parametrize(("name", "methods"), [("quality", tuple(tasks.METHODS)), ("adamw", tasks.UNDER_ADAMW)])
def test_quality(name: str, methods: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "run_all", one_after_the_other(2))
    monkeypatch.setattr(tasks, "SETTINGS", (("language", 0.05),))
    monkeypatch.setattr(tasks, "WORKERS", 2)
    monkeypatch.setattr(tasks, "PILOT_STEPS", 2)
    told: list[str] = []
    chart = getattr(tasks, name)(0, told.append)
    assert len(told) == tasks.pieces(methods) == 2 + tasks.SEEDS * len(methods)
    assert {fact["optimizer"] for fact in chart.facts} == {"sgd" if name == "quality" else "adamw"}
    facts = {fact["method"]: fact for fact in chart.facts}
    assert facts["dense"]["loss_to_dense"] == 0
    assert all(fact["least"] <= fact["mean"] <= fact["most"] for fact in chart.facts)
    check(chart, tmp_path)


@pytest.mark.story
@pytest.mark.timeout(120)
def test_runs_in_processes_of_their_own_are_those_of_this_one() -> None:
    """Equal runs are made once, results are in the order given, and a run's refusal is passed on."""
    runs = [Training("language", spec, 2, steps=2, batch=2, seed=3) for spec in ("dense", "ef(cltk(density=0.1))")]
    told: list[str] = []
    found = run_all([*runs, runs[0]], told.append)
    assert len(told) == 2
    assert found[0] == found[2]
    for training, history in zip(runs, found, strict=False):
        assert [step.loss for step in history.steps] == [step.loss for step in train(training).steps]
    with pytest.raises(ValueError, match=r"need .* got"):
        run_all([replace(runs[0], task="recommendation", batch=100_000_000)], told.append)


@pytest.mark.story
@pytest.mark.timeout(120)
def test_breakdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breakdown, "SECONDS", 1.0)
    monkeypatch.setattr(breakdown, "METHODS", {"DEFT": "ef(deft(density=0.01))", "dense": "dense"})
    chart = breakdown.breakdown(0, lambda words: None)
    for fact in chart.facts:
        assert sum(fact[part] for part in breakdown.PARTS) == pytest.approx(fact["step, ms"])
    assert re.search(r"2 ranks, (links of 100 Mbit/s|loopback)", chart.title)
    check(chart, tmp_path)


def test_no_study_has_a_figures_name() -> None:
    assert not set(studies.STUDIES) & {*figures.FIGURES, "link"}


def test_searching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "SIZES", (1, 2))
    monkeypatch.setattr(shapes, "MODELS", {"small": Layout(["a", "b"], [(4000,), (100,)])})
    monkeypatch.setattr(shapes, "DENSITIES", {"small": 0.01})
    told: list[str] = []
    chart = searching.searching(0, told.append)
    assert len(told) == len(searching.PACKINGS)
    assert [fact["layers"] for fact in chart.facts] == [2, 3, 3, 5, 5, 9]
    check(chart, tmp_path)


@pytest.mark.parametrize("name", list(local.STUDIES))
def test_local_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This draws the results of runs; only one short run is real."""
    one = train(replace(local.arms.BASE, steps=2, evaluate_every=1, batch=1, workers=2))

    def run(trainings: Sequence[Training], report: studies.Report) -> list[History]:
        for _ in dict.fromkeys(trainings):
            report("done")
        return [replace(one, training=training.filled()) for training in trainings]

    monkeypatch.setattr(local.arms, "run_all", run)
    told: list[str] = []
    chart = studies.STUDIES[name].make(0, told.append)
    assert len(told) == studies.STUDIES[name].pieces
    assert chart.name == name
    assert all(fact["to dense"] == 0 and fact["times fewer bytes"] == 1 for fact in chart.facts)
    check(chart, tmp_path)
