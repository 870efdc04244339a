"""The front: what the command line knows before torch is imported, what fits a terminal, what the distributions say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from rich.console import Console

import gradwire as gw
from gradwire import cli, registry
from gradwire.cli import bench_table, console, figures, parts
from gradwire.cli import demo as demo_work
from gradwire.cli import train as train_work
from gradwire.lab import bench
from gradwire.lab.bench.advised import Question
from gradwire.lab.comparison import demo
from gradwire.lab.comparison.job import TrainingJob
from gradwire.lab.comparison.record import Comparison, Point, Run, Split
from gradwire.lab.convex import methods, problems
from gradwire.lab.training import LocalSteps, Training
from gradwire.lab.training.tasks import TASKS
from gradwire.report import sentences

ROOT = Path(__file__).parents[1]
LONG = "ef(induced(topk(density=0.05, values='natural'), randk(density=0.05)), decay=0.95, beta=0.5)"


def front(*arguments: str) -> tuple[int, str, bool]:
    """Return the exit code of a command line, what it prints, and whether it has imported torch."""
    script = (
        "import sys; from gradwire.cli import main; sys.argv = ['gradwire', *sys.argv[1:]]\n"
        "try: main()\n"
        "except SystemExit as end: print('\\nCODE', end.code or 0, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", script, *arguments]
    env = {**os.environ, "COLUMNS": "80", "TERM": "dumb"}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    found = re.search(r"CODE (\d+) (True|False)\n$", ended.stdout)
    assert found, ended.stdout + ended.stderr
    return int(found[1]), ended.stdout + ended.stderr, found[2] == "True"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["frobnicate"], 2, "No such command 'frobnicate'"),
        (["demo", "--sceonds", "3"], 2, "No such option: --sceonds"),
        (["bench", "--steps", "many"], 2, "Invalid value for '--steps'"),
        (["train"], 2, "Missing option '--exchange'"),
        (["lab", "rum"], 2, "No such command 'rum'"),
        (["train", "--exchange", "mean", "--ranks", "0"], 2, "--ranks"),
        (["-h"], 0, "bench"),
        (["lab", "train", "-h"], 0, "--evaluate"),
        (["--version"], 0, f"gradwire {gw.__version__} (torch "),
    ],
)
def test_the_command_line_is_read_before_torch_is_imported(arguments: list[str], code: int, message: str) -> None:
    ended, printed, imported = front(*arguments)
    assert ended == code
    assert message in printed
    assert not imported


def options(*command: str) -> dict[str, Any]:
    """Return the parameters of a command by name."""
    found: Any = typer.main.get_command(cli.app)
    for name in command:
        found = found.commands[name]
    return {parameter.name: parameter for parameter in found.params}


@pytest.mark.parametrize(
    ("command", "record"),
    [(("bench",), bench.BenchPlan), (("advise",), Question), (("train",), TrainingJob), (("lab", "train"), Training)],
)
def test_the_defaults_of_the_options_are_those_of_the_records(command: tuple[str, ...], record: type) -> None:
    """The options are written separately from the records, because the records import torch."""
    own = {field.name: field.default for field in fields(record)}
    shared = {name: option for name, option in options(*command).items() if name in own and option.default is not None}
    assert shared
    for name, option in shared.items():
        assert option.default == own[name], name


def test_the_help_names_every_model_problem_method_task_and_figure() -> None:
    run, figure, task = options("lab", "run"), options("lab", "figure"), options("lab", "train")
    for help_text, names in (
        (run["problem"].help, problems.PROBLEMS),
        (run["method"].help, methods.METHODS),
        (task["task"].help, TASKS),
        (figure["name"].help, (*figures.NAMES, "all")),
    ):
        assert help_text == f"One of {', '.join(names)}."
    assert LocalSteps.outer in task["outer"].help
    assert options("bench")["model"].help.startswith(", ".join(bench.BUILT_IN))
    assert f"Left out: {demo.SHORT.seconds:g}, with --full {demo.FULL.seconds:g}" in options("demo")["seconds"].help


def test_list_filters_shows_parameters_and_cuts_no_spec(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "out", Console(width=80))
    parts.show("TOPK", False)
    text = capsys.readouterr().out
    assert "topk(density, values='float32')\n" in text
    for name, entry in registry.PARTS.items():
        mentioned = "topk" in f"{name} {entry.kind} {entry.summary}".lower()
        assert (f"    for example {entry.example}\n" in text) == mentioned, name
    with pytest.raises(ValueError, match=r"none of the \d+ parts has 'frobnicate'"):
        parts.show("frobnicate", False)
    parts.show(None, True)
    found = json.loads(capsys.readouterr().out)
    assert {each["name"] for each in found} == set(registry.PARTS)
    natural = next(each for each in found if each["name"] == "natural")
    assert (natural["omega"], natural["nbytes"], natural["elements"]) == (0.125, 1_125_000, 1_000_000)


def test_a_name_too_long_for_its_column_gets_a_number_and_a_line_below() -> None:
    assert console.numbered(["dense", LONG, "fp16", LONG], 20) == (["dense", "(1)", "fp16", "(1)"], [f"(1) {LONG}"])
    assert console.numbered(["dense"], 5) == (["dense"], [])


def printed(*things: object) -> str:
    shown = Console(width=80)
    with shown.capture() as text:
        for thing in things:
            shown.print(thing, markup=False, highlight=False, soft_wrap=isinstance(thing, str))
    assert "\N{HORIZONTAL ELLIPSIS}" not in text.get()
    return text.get()


@pytest.mark.parametrize("wide", [{}, {"wait": 0.000842, "wire": 0.0003412, "selection": 0.00123, "sent_bytes": 2594}])
def test_a_benchmarks_table_fits_80_columns_and_says_what_hidden_is(wide: dict[str, float]) -> None:
    figures = {"selection": 0.0012, "wire": 0.3456, "wait": 0.0123, "sent_bytes": 3_336_960} | wide
    every = tuple(
        bench.Measured(**{**{field.name: 0.0 for field in fields(bench.Measured)}, **figures, **named})  # pyright: ignore
        for named in (
            {"model": "resnet18", "method": name, "ranks": 2, "link": "100mbit", "step": 0.3601, "compute": 0.0401,
             "step_low": 0.3271, "step_high": 0.3644}
            for name in ("none", "dense", "local(every=10)", LONG)
        )
    )  # fmt: skip
    sheet = bench.Sheet((), every, 25.0, "gradwire bench", {}, "")
    table, below = bench_table.table(sheet, every)
    text = printed(table, *below)
    assert max(map(len, text.split(LONG)[0].splitlines())) <= 80
    for word in ("local(every=10)", f") {LONG}", "327-364", "hidden: the part of select, wire and wait"):
        assert word in " ".join(text.split())


def runs(losses: dict[str, list[float]]) -> Comparison:
    """Make a comparison with one evaluation a second."""
    made = tuple(
        Run(
            name,
            demo.RUNS[name],
            tuple(Point(10 * i, float(i), 1_000_000 * i // (1 + 1000 * index), loss) for i, loss in enumerate(curve)),
            Split(0.02, 0.001, 0.3),
            0.34012,
            0.32712,
            0.36412,
            40_000_000 // (1 + 1000 * index),
            0,
            0,
        )
        for index, (name, curve) in enumerate(losses.items())
    )
    return Comparison("title", "model", "corpus", "100 Mbit/s", 2, 10.0, "gradwire demo", {}, "", made)


def test_the_demos_table_fits_80_columns_without_cutting_a_name() -> None:
    curve = [5.4, 4.5, 4.0, 3.7, 3.5, 3.35, 3.25, 3.2, 3.17]
    text = printed(
        demo_work.table(runs({name: [each - 0.2 * i for each in curve] for i, name in enumerate(demo.RUNS)}))
    )
    assert max(map(len, text.splitlines())) <= 80
    for word in (*demo.RUNS, "there after", "sooner", "fewer"):
        assert word in text


def test_the_demo_says_what_the_noise_of_dense_does_to_its_headline() -> None:
    """The deviations from a parabola have a known size, and third differences do not see the parabola."""
    trend = [5.0 - 0.3 * t + 0.01 * t * t for t in range(13)]
    noise = [0.05 * sign for sign in (1, -1, -1, 1, 1, -1, 1, -1, -1, 1, -1, 1, 0)]
    assert runs({"dense DDP": trend}).noise == pytest.approx(0, abs=1e-12)
    noisy = [a + b for a, b in zip(trend, noise, strict=True)]
    found = runs({"dense DDP": noisy, "gradwire.local": [min(each, 5.0 - 0.5 * i) for i, each in enumerate(noisy)]})
    assert found.noise == pytest.approx(0.05, rel=0.5)
    low, high = map(float, re.findall(r"there ([\d.]+) to ([\d.]+) times sooner", sentences.noise(found))[0])
    assert low <= (found.speedup(found.runs[1]) or 0) <= high
    assert low < high
    assert sentences.noise(found) in sentences.remarks(found)
    quiet = [a + b / 1e4 for a, b in zip(trend, noise, strict=True)]
    found = runs({"dense DDP": quiet, "gradwire.local": [min(each, 5.0 - 0.5 * i) for i, each in enumerate(quiet)]})
    assert re.search(r"was there still [\d.]+ times sooner\.$", sentences.noise(found))
    assert runs({"dense DDP": [5.0, 4.0]}).noise is None


def test_the_demo_says_that_the_machine_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "getloadavg", lambda: (cores + 7.25, 0.0, 0.0))
    assert f"(load {cores + 7.25:.1f} on {cores} cores)" in demo_work.busy()
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 9.0, 9.0))
    assert demo_work.busy() == ""


def test_train_prints_its_facts_under_the_exchanges_own_name() -> None:
    text = printed(*train_work.facts(runs({"dense DDP": [5.4, 4.5, 4.0]}).runs[0]))
    assert "What fewer bytes bought" not in text
    assert "a step         340 ms, [327-364]" in text
    assert "held-out loss  4.000 nats per byte, 5.400 at the start" in text


def test_the_full_demo_is_the_one_that_the_docs_show() -> None:
    comparison = Comparison.from_json((ROOT / "benchmarks" / "results" / "demo.json").read_text())
    job = demo.jobs(demo.FULL, None, 0)["dense DDP"]
    assert comparison.command == "gradwire demo --full"
    assert comparison.budget_seconds == job.seconds
    assert f"({job.depth} blocks of width {job.width})" in comparison.model
    assert [run.spec for run in comparison.runs] == list(demo.RUNS.values())


def test_the_readme_shows_the_demos_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """This checks every number of README's table, of docs/demo.md, and of README's first paragraph."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import demo_page

    comparison = Comparison.from_json((ROOT / "benchmarks" / "results" / "demo.json").read_text())
    readme = (ROOT / "README.md").read_text()
    assert f"<!-- demo -->\n{demo_page.table(comparison)}\n<!-- /demo -->" in readme
    assert (ROOT / "docs" / "demo.md").read_text() == demo_page.page(comparison)
    assert len(readme.splitlines()) <= 150
    import local_page

    rows = {cells[1].strip(): cells for row in local_page.table().splitlines() if len(cells := row.split("|")) > 6}
    ours, dense = (float(rows[name][4].split()[0]) for name in ("default, H = 10", "dense"))
    assert f"[{ours:.2f} against {dense:.2f} nats a byte](docs/local-lab.md)" in readme
    assert "1/2000 of the bytes" in readme
    assert int(rows["default, H = 10"][7].replace(",", "")) > 2000


def test_the_readmes_other_numbers_are_those_of_the_code() -> None:
    """This checks the memory beside the gradient, the size of the demo's model, and its link."""
    readme = (ROOT / "README.md").read_text()
    assert "Error feedback keeps 4 bytes a parameter, shifted methods 8; `local` 8" in readme
    layout = gw.Layout(["weight"], [(300, 300)])
    for spec, kept in (("ef(topk(density=0.1))", 4), ("ef(deft(density=0.01))", 4), ("diana(randk(density=0.1))", 8)):
        assert nbytes(gw.parse(spec).init(layout)) == pytest.approx(kept * layout.d, rel=0.01), spec
    held = json.loads((ROOT / "benchmarks" / "results" / "local_cost.json").read_text())
    (local,) = (row["value"] for row in held["rows"] if row["name"].startswith("default: held"))
    assert local == pytest.approx(8, rel=0.1)
    comparison = Comparison.from_json((ROOT / "benchmarks" / "results" / "demo.json").read_text())
    size, rate = comparison.model.split(" parameters")[0], comparison.link.split(" between")[0]
    assert f"A {size.removeprefix('GPT, ')} parameter GPT" in readme
    assert f"two ranks, a {rate} link, {comparison.budget_seconds:g} seconds each" in readme
    assert comparison.ranks == 2
    rows = json.loads((ROOT / "benchmarks" / "results" / "first_step.json").read_text())
    install, first, later = (f"{row['value']:.0f}" for row in rows)
    said = f"installing takes {install} s and the first compressed step {first} s, mostly to compile loops once; "
    assert f"{said}{later} s from then on" in " ".join(readme.split())


def nbytes(state: Any) -> int:
    """Count the bytes of all tensors in a nest."""
    if isinstance(state, dict):
        return sum(map(nbytes, state.values()))
    if isinstance(state, list | tuple):
        return sum(map(nbytes, state))
    return state.nbytes if isinstance(state, torch.Tensor) else 0


def test_what_the_repository_tells_of_itself_agrees() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == gw.__version__
    assert citation["license"] == "Apache-2.0"
    assert {paper["identifiers"][0]["value"] for paper in citation["references"]} == {
        "arXiv:2307.03500",
        "arXiv:2206.10452",
    }
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step.get("run", "") for step in workflow["jobs"]["run"]["steps"]]
    assert "bash .ci/run" in steps
    for file in (*(ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"), ROOT / ".pre-commit-config.yaml"):
        assert yaml.safe_load(file.read_text()), file
    ignored = (ROOT / ".gitignore").read_text()
    for command in ("demo", "bench"):
        assert f"/{options(command)['output'].default.stem}.*" in ignored
