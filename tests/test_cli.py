"""The command line: what it prints, what it writes, and how it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from gradwire import net, registry
from gradwire.cli.train import check_finite
from gradwire.lab.comparison import demo
from gradwire.lab.comparison.job import TrainingJob
from gradwire.lab.comparison.on_ranks import execute
from gradwire.lab.comparison.record import Comparison, Point, Run, Split
from gradwire.report import sentences

HALF = ("--density", "0.5")

SMALL = {"seconds": 600.0, "steps": 12, "width": 16, "depth": 1, "heads": 2, "context": 16, "batch": 2}


def gradwire(*arguments: str, folder: Path, seconds: float = 100) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gradwire", *arguments]
    env = {**os.environ, "COLUMNS": "200", "TERM": "dumb"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=seconds)


def test_list_shows_every_part(tmp_path: Path) -> None:
    ended = gradwire("list", folder=tmp_path)
    assert ended.returncode == 0
    for name, entry in registry.PARTS.items():
        assert name in ended.stdout
        assert entry.example in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--exchange", "ef(tokp(0.1))"], "did you mean 'topk'"),
        (["train", "--exchange", "ef(topk(0.1"], "cannot read the spec"),
        (["train", "--exchange", "topk(density=0)"], "density must lie in (0, 1], got 0"),
        (["train", "--exchange", "topk(density=1.5)"], "density must lie in (0, 1], got 1.5"),
        (["train", "--exchange", "ef(randk(density=0.1))"], "ef needs a contractive operator"),
        (["train", "--exchange", "mean", "--rate", "fast"], "got 'fast'"),
        (["demo", "--rate", "fast"], "got 'fast'"),
        (["demo", "--output", "nowhere/report.html"], "no folder nowhere"),
        (["demo", "--seconds", "-1"], "needs a budget"),
        (["train", "--exchange", "mean", "--ranks", "0"], "--ranks"),
        (["train"], "--exchange"),
        (["train", "--exchange", "mean", "--steps", "0"], "needs a budget"),
        (["train", "--exchange", "mean", "--width", "30"], "multiple of the heads"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    ended = gradwire(*arguments, folder=tmp_path)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "rigde", *HALF], "unknown problem 'rigde'; did you mean 'ridge'?"),
        (["run", "ridge", *HALF, "--method", "dianna"], "unknown method 'dianna'; did you mean 'diana'?"),
        (["run", "ridge", *HALF, "--compressor", "rndk"], "did you mean 'randk'?"),
        (["run", "ridge", "--compressor", "mean"], "mean is not a compressor"),
        (["run", "ridge", "--compressor", "topk"], "topk needs a density: give --density 0.1"),
        (["run", "ridge"], "randk needs a density: give --density 0.1"),
        (["run", "ridge", *HALF, "--compressor", "randk(density=0.1)"], "the density is given twice"),
        (["run", "ridge", "--compressor", "topk(density=0.1)"], "diana needs an unbiased operator"),
        (["run", "ridge", *HALF, "--step", "-1"], "step must be positive and finite, got -1.0"),
        (["run", "ridge", *HALF, "--workers", "0"], "n must be a whole number of at least 1, got 0"),
        (["run", "ridge", *HALF, "--rounds", "0"], "--rounds"),
        (["run", "ridge", *HALF, "-o", "nonsense"], "looks like penalty=0.1, got 'nonsense'"),
        (["run", "ridge", *HALF, "-o", "colour=red"], "ridge takes m, d, penalty, noise, shards; got colour"),
        (["run", "ridge", *HALF, "-o", "penalty=much"], "penalty must be a finite number"),
        (["run", "ridge", *HALF, "-o", "seed=3"], "seed is not an option of a problem, got 'seed=3'"),
        (["run", "ridge", *HALF, "--output", "nowhere/run.json"], "there is no folder nowhere"),
        (["run", "ridge", *HALF, "--output", "."], "is a folder"),
        (["figure", "rigde"], "unknown figure 'rigde'; known are ridge-table"),
    ],
)
def test_the_laboratory_refuses_in_one_sentence_and_code_2(
    arguments: list[str], message: str, refusal: Callable[..., str]
) -> None:
    assert message in refusal("lab", *arguments)


def test_a_run_of_the_laboratory_prints_its_end_and_writes_its_marks(tmp_path: Path) -> None:
    arguments = ("lab", "run", "ridge", "--method", "diana", "--compressor", "randk", *HALF, "--rounds", "300")
    ended = gradwire(*arguments, "--output", "run.json", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "DIANA (Shulgin" in ended.stdout
    assert "alpha = 0.5" in ended.stdout  # 1 / (1 + omega), where omega = d / k - 1 = 1
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["command"] == f"gradwire {' '.join(arguments)} --output run.json"
    assert set(record["versions"]) == {"gradwire", "torch", "python", "machine", "loops"}
    marks = record["marks"]
    assert marks[0] == {"round": 0, "error": 1.0, "bytes": 0, "traffic": 0}
    assert marks[-1]["round"] == 300
    assert marks[-1]["error"] < 0.1
    assert f"error {marks[-1]['error']:.3g} after 300 rounds and {marks[-1]['bytes']:,} bytes" in ended.stdout


def test_options_of_a_problem_reach_it(tmp_path: Path) -> None:
    options = ("--workers", "3", "-o", "d=7", "-o", "condition=10", "--lockstep", "--rounds", "5", "--output", "a.json")
    ended = gradwire("lab", "run", "quadratic", "--compressor", "natural", *options, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "quadratic: n = 3, d = 7, L = 1, " in ended.stdout
    assert "mu = 0.1" in ended.stdout
    marks = json.loads((tmp_path / "a.json").read_text())["marks"]
    assert marks[-1]["bytes"] == 5 * 8  # d bytes of exponent and ceil(d / 8) of sign a round


def test_a_figure_is_not_written_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("mine")
    ended = gradwire("lab", "figure", "gdci", "--output", "here", folder=tmp_path)
    assert ended.returncode == 2
    assert "here is a file" in ended.stderr
    assert (tmp_path / "here").read_text() == "mine"


def train(exchange: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return gradwire("train", "--exchange", exchange, "--width", "16", *more, folder=folder)


@pytest.mark.story
def test_train_saves_resumes_and_refuses_other_checkpoints(tmp_path: Path) -> None:
    saved = ("--save", "here")
    ended = train("ef(topk(density=0.1))", tmp_path, "--steps", "4", *saved)
    assert ended.returncode == 0, ended.stderr
    assert sorted(file.name for file in (tmp_path / "here").iterdir()) == ["rank0.pt", "rank1.pt"]
    before = {file: file.read_bytes() for file in (tmp_path / "here").iterdir()}

    resumed = train("ef(topk(density=0.1))", tmp_path, "--steps", "3", "--resume", "here")
    assert resumed.returncode == 0, resumed.stderr
    assert "step     7" in resumed.stdout

    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "rank0.pt").write_bytes(b"not a checkpoint")
    (tmp_path / "broken" / "rank1.pt").write_bytes(before[tmp_path / "here" / "rank1.pt"][:1000])
    for exchange, more, message in [
        ("ef(topk(density=0.2))", ("--resume", "here", *saved), "this hook runs EF"),
        ("diana(natural)", ("--resume", "here", *saved), "this hook runs Shifted"),
        ("dense", ("--resume", "here", *saved), "this run is dense"),
        ("ef(topk(density=0.1))", ("--resume", "here", "--width", "32", *saved), "of another model"),
        ("ef(topk(density=0.1))", ("--resume", "nowhere", *saved), "there is no checkpoint"),
        ("ef(topk(density=0.1))", ("--resume", "broken", *saved), "not a checkpoint of a training run"),
        ("ef(topk(density=0.1))", ("--resume", "here", "--ranks", "1", *saved), "rank 0 of 2, this is rank 0 of 1"),
    ]:
        refused = train(exchange, tmp_path, *more)
        assert refused.returncode == 2, refused.stderr
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr
        assert {file: file.read_bytes() for file in before} == before  # nothing half-written
        assert len(list((tmp_path / "here").iterdir())) == 2


@pytest.mark.story
@pytest.mark.parametrize(
    "exchange",
    [
        *demo.RUNS.values(),
        "local(every=5, exchange='mean', outer='sgd(lr=1.0)')",
        "diana(natural)",
        "randdiana(randk(density=0.2))",
    ],
)
def test_on_a_link_the_ledger_agrees_with_the_kernel(exchange: str) -> None:
    """Bytes counted from tensors agree with tx_bytes less headers within 5 %, which allows for gloo's
    small messages.
    """
    if (reason := net.refusal()) is not None:
        pytest.skip(reason)
    job = TrainingJob(exchange, **{**SMALL, "steps": 60, "width": 64, "depth": 2, "context": 32})
    run = execute("run", job, 2, "1gbit")
    assert run.points[-1].step == 60
    assert run.points[-1].loss < run.points[0].loss
    assert abs(run.link_payload / run.ledger_bytes - 1) < 0.05 + 60 * 1500 / run.ledger_bytes
    assert run.split.compute > 0
    assert min(run.split.selection, run.split.wire) >= 0


@pytest.mark.story
def test_the_demo_ends_in_a_report(tmp_path: Path) -> None:
    """This runs the whole of `gradwire demo`, with three seconds a run."""
    ended = gradwire("demo", "--seconds", "3", "--output", "out.html", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    comparison = Comparison.from_json((tmp_path / "out.json").read_text())
    assert [run.name for run in comparison.runs] == list(demo.RUNS)
    assert all(isinstance(run, Run) and len(run.points) >= 2 for run in comparison.runs)
    assert "<svg" in (tmp_path / "out.html").read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.html", "out.json"]
    assert ended.stdout.startswith("gradwire demo: loading torch\n")
    for name in demo.RUNS:
        assert f"{name}: starting 2 ranks\n" in ended.stdout
        assert len(re.findall(rf"^{re.escape(name)}: [\d.]+ s  step \d+  loss [\d.]+$", ended.stdout, re.M)) >= 2
    assert sentences.headline(comparison) in " ".join(ended.stdout.split())
    table = ended.stdout[ended.stdout.index("The way to the final loss") :].split("MB are sent by one rank.")[0]
    assert max(map(len, map(str.rstrip, table.splitlines()))) <= 80
    assert all(re.search(rf"^{re.escape(name)} +[\d.]", table, re.M) for name in demo.RUNS)


@pytest.mark.story
def test_where_the_kernel_refuses_the_demo_goes_on_over_loopback_and_says_so(tmp_path: Path) -> None:
    """With an empty PATH the programs that create links are missing."""
    script = (
        "import sys; from gradwire import net, cli; from gradwire.net import links\n"
        "def none(): raise FileNotFoundError('tc cannot be found (packages iproute2, util-linux)')\n"
        "links.find_programs = none\n"
        "sys.argv = ['gradwire', 'demo', '--seconds', '1.5', '--output', 'out.html']; cli.main()"
    )
    env = {**os.environ, "COLUMNS": "200"}
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    assert "going on over loopback" in ended.stderr
    assert "tc cannot be found" in ended.stderr
    comparison = Comparison.from_json((tmp_path / "out.json").read_text())
    assert comparison.link.startswith("loopback (")
    assert all(run.link_bytes == 0 for run in comparison.runs)


def test_a_run_that_diverges_ends_with_a_sentence_and_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(
        "mean", "mean", (Point(0, 0.0, 0, 5.5), Point(20, 1.0, 10, float("nan"))), Split(0, 0, 0), 0, 0, 0, 0, 0, 0
    )
    with pytest.raises(typer.Exit) as ended:
        check_finite(run)
    assert ended.value.exit_code == 1
    assert "the loss is nan after 20 steps: the run has diverged" in " ".join(capsys.readouterr().err.split())
