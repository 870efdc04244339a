"""The benchmark: its record, its names, its page, its refusals; and two stories on real ranks."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
import time
import types
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradwire import AllReduce, Ledger
from gradwire.lab import bench, records, ways
from gradwire.lab.bench import BenchPlan, Measured, Model, Sheet, workloads
from gradwire.lab.comparison.job import TrainingJob
from gradwire.net.links import free_port
from gradwire.report import bench as page
from gradwire.report import bench_bars, bench_words

OWN = """
import torch
from torch import nn

def make(rank):
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(rank))
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    return model, lambda model: model(x).square().mean()

def alone():
    return make(0)[0]

def fails():
    raise RuntimeError("no data")

def vector():
    return nn.Linear(4, 2), lambda model: model(torch.randn(8, 4))

def frozen():
    model = nn.Linear(4, 2).requires_grad_(False)
    return model, lambda model: model(torch.randn(8, 4)).sum()

def breaks():
    return nn.Linear(4, 2), lambda model: {}["batch"]

def outside():
    model = nn.Linear(4, 2)
    return model, lambda _: model(torch.randn(8, 4)).sum()

def broken():
    return nn.Linear(4, 2), lambda model: model(torch.randn(8, 4)).sum() * float("nan")

number = 3
"""

PARAMETERS, TENSORS = 16 * 32 + 32 + 32 * 4 + 4, 4
POWERSGD1 = 4 * ((16 + 32) + (32 + 4) + 32 + 4)  # bytes of P and Q of both matrices, and of what is not compressed


def measured(method: str, step: float, **fields: Any) -> Measured:
    about: dict[str, Any] = {
        "model": "mlp",
        "link": "100mbit",
        "ranks": 2,
        "steps": 20,
        "step_low": 0.9 * step,
        "step_high": 1.2 * step,
        "compute": 0.03,
        "selection": 0.0,
        "wire": max(0.0, step - 0.03),
        "wait": 0.0,
        "sent_bytes": 1e6,
        "tx_bytes": 1.1e6,
    }
    return Measured(method=method, step=step, **{**about, **fields})


def sheet(*every: Measured, **fields: Any) -> Sheet:
    about: dict[str, Any] = {
        "models": (Model("mlp", 5_824_522, 6, 23_298_088),),
        "bucket_mb": 4.0,
        "command": "gradwire bench",
        "versions": {"torch": "2"},
        "note": "",
    }
    return Sheet(measured=every, **{**about, **fields})


NONE, DENSE, POWERSGD = measured("none", 0.03), measured("dense", 2.0), measured("powersgd1", 0.12)
EF = measured("ef(topk(density=0.01))", 0.06, selection=0.02, wire=0.02, wait=0.01)
SHEET = sheet(NONE, DENSE, POWERSGD, EF)
FAST = tuple(replace(one, link="loopback", tx_bytes=0.0) for one in (NONE, measured("dense", 0.04), POWERSGD, EF))


# The record.

SECONDS = st.floats(0, 10)


@given(SECONDS, SECONDS, SECONDS, SECONDS, SECONDS)
def test_what_is_exposed_sums_to_what_averaging_adds(
    step: float, compute: float, selection: float, wire: float, wait: float
) -> None:
    one = measured("mean", step, compute=compute, selection=selection, wire=wire, wait=wait)
    assert min(one.exposed) >= 0
    assert sum(one.exposed) == pytest.approx(one.added)
    assert one.exposed[0] <= selection + 1e-12
    if step >= compute:
        assert one.hidden == pytest.approx(selection + wire + wait - one.added, abs=1e-12)
        assert one.exposed[3] == pytest.approx(max(0.0, -one.hidden), abs=1e-12)
    assert sum(bench_bars.parts(one).values()) == pytest.approx(max(step, compute))


def test_what_is_hidden_is_taken_off_the_wire_first() -> None:
    assert EF.hidden == pytest.approx(0.02)
    assert EF.exposed == pytest.approx((0.02, 0.0, 0.01, 0.0))


def test_json_gives_an_equal_record_back() -> None:
    assert Sheet.from_json(SHEET.to_json()) == SHEET
    endless = sheet(replace(EF, step=math.inf))
    assert Sheet.from_json(endless.to_json()) == endless


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.pop("note"), "the sheet lacks 'note'"),
        (lambda record: record.update(more=1), "the sheet has an unknown field 'more'"),
        (
            lambda record: record["measured"][0].update(steps=1.5),
            "measured[0]: steps must be a whole number, got '1.5'",
        ),
        (lambda record: record["measured"].clear(), "needs at least one measurement"),
    ],
)
def test_another_record_is_refused(change: Any, message: str) -> None:
    record = json.loads(SHEET.to_json())
    change(record)
    with pytest.raises(ValueError, match=r".") as refused:
        Sheet.from_json(json.dumps(record))
    assert message in str(refused.value)
    with pytest.raises(ValueError, match="the sheet is not JSON"):
        Sheet.from_json("nothing")


def test_ratios_are_within_a_link() -> None:
    both = sheet(*SHEET.measured, *FAST)
    assert both.ratio(EF, "dense") == 0.03
    assert both.ratio(FAST[3], "dense") == 1.5
    assert both.ratio(POWERSGD, "none") == pytest.approx(4)
    assert math.isnan(both.ratio(EF, "fp16"))
    assert list(both.cells()) == [("mlp", "100mbit", 2), ("mlp", "loopback", 2)]


def test_csv_has_a_line_for_every_measurement() -> None:
    lines = list(csv.DictReader(sheet(NONE, EF).to_csv().splitlines()))
    assert [line["method"] for line in lines] == ["none", EF.method]
    assert float(lines[1]["exposed_wait"]) == pytest.approx(0.01)
    assert float(lines[1]["to_none"]) == pytest.approx(2)
    assert lines[1]["to_dense"] == ""


def test_a_ledger_logs_where_it_is_asked_to() -> None:
    ledger = Ledger()
    ledger.record(AllReduce(torch.zeros(3)), 0, 2, seconds=0.25)
    assert ledger.log is None
    ledger.log = []
    ledger.record(AllReduce(torch.zeros(3)), 0, 2, seconds=0.5)
    assert ledger.log == [0.5]
    assert ledger.seconds == 0.75


# Names: ways, models, plans.


def test_ways() -> None:
    for way in ("none", "auto", "dense", "fp16", "powersgd1", "powersgd32", "mean", "ef(topk(density=0.1))"):
        ways.check_way(way)
    assert [ways.powersgd_rank(name) for name in ("powersgd4", "powersgd0", "powersgd", "dense")] == [
        4,
        None,
        None,
        None,
    ]
    with pytest.raises(ValueError, match="or one of dense, fp16, powersgd1"):
        ways.check_way("powersgd0")


def test_a_training_run_averages_and_does_not_resume_what_torch_keeps() -> None:
    with pytest.raises(ValueError, match="does not average"):
        TrainingJob("none")
    with pytest.raises(ValueError, match="cannot be resumed"):
        TrainingJob("powersgd2", save="here")
    assert TrainingJob("powersgd2").exchange == "powersgd2"


@pytest.mark.parametrize(("name", "parameters"), [("mlp", 5_824_522), ("gpt", 10_868_736), ("resnet18", 11_173_962)])
def test_built_in_models_are_of_the_size_they_say(name: str, parameters: int) -> None:
    model = bench.make(name, 0).model
    assert sum(p.numel() for p in model.parameters()) == parameters
    told = f"{parameters / 1e6:.1f} M parameters"
    assert told in (bench.BUILT_IN[name].__doc__ or "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mpl", "unknown model 'mpl'; did you mean 'mlp'?"),
        ("a b:c", "a factory looks like package.module:name, got 'a b:c'"),
        ("bench_own:", "a factory looks like"),
        ("bench_nowhere:make", "the module bench_nowhere cannot be imported: ModuleNotFoundError"),
        ("bench_own:mkae", "bench_own has no function 'mkae'"),
        ("bench_own:number", "bench_own has no function 'number'"),
        ("bench_own:fails", "the factory bench_own:fails fails: RuntimeError: no data"),
        ("bench_own:alone", "must return a model and a function of it, (model, loss); got (Sequential)"),
        ("bench_own:vector", "a tensor of one element that depends on the model, got one of shape [8, 2]"),
        ("bench_own:frozen", "that depends on the model, got one of shape [] without a gradient"),
        ("bench_own:breaks", "the loss fails: KeyError: 'batch'"),
    ],
)
def test_a_bad_model_is_refused(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bench_own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "bench_own", raising=False)
    with pytest.raises(ValueError, match=r".") as refused:
        make(name)
    assert message in str(refused.value)


def make(name: str) -> None:
    bench.check_model(name)
    bench.make(name, 0).check()


def test_a_plan_measures_none_first() -> None:
    assert BenchPlan(methods=("dense", "none")).methods == ("none", "dense")
    assert BenchPlan().methods == bench.METHODS
    cells = list(BenchPlan(rates=("10mbit", None), ranks=(2, 4)).cells())
    assert [(cell.ranks, cell.link) for cell in cells] == [
        (2, "10mbit"),
        (2, "loopback"),
        (4, "10mbit"),
        (4, "loopback"),
    ]
    assert [records.from_json(bench.Cell, records.to_json(cell), "the cell") for cell in cells] == cells


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 1}, "two steps and some seconds"),
        ({"seconds": 0.0}, "two steps and some seconds"),
        ({"ranks": (0,)}, "0 ranks"),
        ({"ranks": ()}, "names every number of ranks once, got none"),
        ({"rates": ("1gbit", "1gbit")}, "names every rate once, got 1gbit, 1gbit"),
        ({"rates": ("fast",)}, "got 'fast'"),
        ({"methods": ("topk(density=2)",)}, "density must lie in"),
        ({"bucket_mb": math.inf}, "bucket_mb must be positive and finite, got inf"),
    ],
)
def test_a_plan_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        BenchPlan(**fields)
    assert message in str(refused.value)


# The page.


def test_the_headline_states_the_finding_also_when_compression_loses() -> None:
    expected = "At 100mbit, 2 ranks: ef(topk(density=0.01)) takes 60 ms a step; 33 times faster than dense DDP"
    assert bench_words.headline(SHEET) == expected
    expected = "On loopback, 2 ranks: do not compress; dense DDP takes 40 ms a step, "
    assert bench_words.headline(sheet(*FAST)) == f"{expected}ef(topk(density=0.01)) 60 ms (1.50 of that)"
    assert (
        bench_words.headline(sheet(*SHEET.measured, *FAST))
        == "Compression pays at 100mbit; on loopback do not compress"
    )
    lost = sheet(*FAST, *(replace(one, ranks=4) for one in FAST))
    expected = "Do not compress: no method is faster than dense DDP on loopback with 2 ranks, on loopback with 4 ranks"
    assert bench_words.headline(lost) == expected


def test_a_way_that_is_as_fast_is_named() -> None:
    close = sheet(NONE, DENSE, replace(POWERSGD, step=0.062), EF)
    assert "60 ms a step; powersgd1 within a tenth of that; 33 times" in bench_words.headline(close)


def test_a_hair_faster_is_not_faster() -> None:
    assert "do not compress" in bench_words.headline(sheet(NONE, DENSE, replace(EF, step=1.96)))


def test_headlines_where_there_is_nothing_to_compare() -> None:
    assert bench_words.headline(sheet(NONE)).endswith("only steps without a network were measured")
    assert bench_words.headline(sheet(NONE, EF)).endswith("ef(topk(density=0.01)) takes 60 ms a step")
    assert bench_words.headline(sheet(NONE, DENSE)).endswith("dense takes 2,000 ms a step")
    versions = {"torch": "2.13.0", "loops": "torch, without Numba"}
    expected = "Measured with torch 2.13.0; loops over gradients by torch, without Numba."
    assert bench_words.measured_with(versions) == expected


def test_the_page_warns_of_few_steps_and_of_a_busy_machine() -> None:
    told = " ".join(bench_words.remarks(sheet(replace(NONE, steps=2), replace(EF, step_high=0.2), note="A note.")))
    assert "A note." in told
    assert "none at 100mbit, 2 ranks: only 2 steps were timed" in told
    assert "steps between 54 and 200 ms; the machine was busy" in told
    assert bench_words.remarks(SHEET) == []


class Opened(HTMLParser):
    """Collects the tags that are open, and references to elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        assert not {"src", "href"} & {name for name, _ in attrs}
        if tag not in ("meta", "line", "rect"):
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def test_the_page_needs_nothing_but_itself_and_names_are_text() -> None:
    hostile = replace(EF, method='<script src="http://x">&')
    html = page.render(sheet(*SHEET.measured, hostile, command="<b>", note="<i>"))
    parser = Opened()
    parser.feed(html)
    assert parser.stack == []
    assert "script" not in parser.tags
    assert "&lt;script" in html
    assert html.replace("http://www.w3.org/2000/svg", "").count("http://x") == html.count("&quot;http://x")
    assert html == page.render(sheet(*SHEET.measured, hostile, command="<b>", note="<i>"))


def test_bars_are_as_long_as_steps_and_cut_where_they_leave() -> None:
    drawing = bench_bars.html((NONE, DENSE, EF), "a title")
    svg = ElementTree.fromstring(drawing[drawing.index("<svg") : drawing.index("</svg>") + 6])
    bars: dict[str, float] = {}
    for bar in svg.iter("{http://www.w3.org/2000/svg}rect"):
        if bar.attrib["fill"] != "var(--card)":
            bars[bar.attrib["y"]] = bars.get(bar.attrib["y"], 0.0) + float(bar.attrib["width"].rstrip("%"))
    reach = bench_bars.reach((NONE, DENSE, EF))
    assert reach == pytest.approx(0.24)
    assert list(bars.values()) == pytest.approx([12.5, 100, 25], abs=0.01)
    assert drawing.count("var(--card)") == 2  # the cut of the one bar that goes on


# The command: stories.


def gradwire(folder: Path, *command: str, seconds: float = 100) -> subprocess.CompletedProcess[str]:
    env = {"COLUMNS": "200", "TERM": "dumb", "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=env, capture_output=True, text=True, timeout=seconds
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "mpl"], "did you mean 'mlp'"),
        (["--method", "ef(tokp(0.1))"], "did you mean 'topk'"),
        (["--method", "powersgd0"], "or one of dense, fp16, powersgd1"),
        (["--method", "dense", "--method", "dense"], "names every method once"),
        (["--rate", "fast"], "got 'fast'"),
        (["--steps", "1"], "two steps"),
        (["--output", "nowhere/bench.html"], "there is no folder nowhere"),
        (["--output", "bench.json"], "the page's name ends in .html"),
        (["--output", "/proc/bench.html"], "nothing can be written to /proc"),
        (["--here", "--rate", "100mbit"], "leave out --rate and --ranks"),
        (["--here"], "start the ranks by torchrun"),
        (["--ranks", "0"], "--ranks takes whole numbers from 1 to 64, such as 2,4,8; got '0'"),
        (["--ranks", "2,four"], "got 'four'"),
        (["--ranks", "2,4", "--ranks", "2"], "names every number of ranks once, got 2, 4, 2"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(arguments: list[str], message: str, refusal: Callable[..., str]) -> None:
    assert message in refusal("bench", *arguments)


@pytest.mark.story
def test_ones_own_model_is_measured_with_every_kind_of_way(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    rounds = "local(every=3, exchange='mean')"
    methods = ("dense", "fp16", "powersgd1", "ef(topk(density=0.1))", rounds)
    options = [word for method in methods for word in ("--method", method)]
    arguments = ("--model", "own:make", *options, "--steps", "4", "--output", "out.html")
    ended = gradwire(tmp_path, "gradwire", "bench", *arguments)
    assert ended.returncode == 0, ended.stderr
    assert "own:make, loopback, 2 ranks" in ended.stdout
    found = Sheet.from_json((tmp_path / "out.json").read_text())
    assert found.models == (Model("own:make", PARAMETERS, TENSORS, 4 * PARAMETERS),)
    by_name = {one.method: one for one in found.measured}
    assert list(by_name) == ["none", *methods]
    sent = {name: one.sent_bytes for name, one in by_name.items()}  # on a ring of two: the tensor itself
    assert sent["none"] == 0
    assert sent["dense"] == 2 * sent["fp16"] == 4 * PARAMETERS
    assert sent["powersgd1"] == POWERSGD1
    assert 0 < sent["ef(topk(density=0.1))"] < sent["dense"]
    assert sent[rounds] == pytest.approx(sent["dense"] / 3, rel=0.02)  # and whether all is finite, once a round
    for one in found.measured:
        assert one.steps == (15 if one.method == rounds else 4)
        assert 0 < one.step_low <= one.step <= one.step_high
        assert one.compute == by_name["none"].step
        assert min(one.selection, one.wire, one.wait) >= 0
    assert by_name["ef(topk(density=0.1))"].selection > 0
    assert (tmp_path / "out.csv").read_text() == found.to_csv()
    assert (tmp_path / "out.html").read_text() == page.render(found)


@pytest.mark.story
def test_under_torchrun_the_network_is_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    torchrun = ("torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()))
    arguments = ("-m", "gradwire", "bench", "--here", "--model", "own:make", "--method", "dense", "--steps", "2")
    ended = gradwire(tmp_path, *torchrun, *arguments)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("The page:") == 1
    found = Sheet.from_json((tmp_path / "gradwire-bench.json").read_text())
    assert [(one.method, one.link, one.ranks) for one in found.measured] == [
        ("none", bench.HERE, 2),
        ("dense", bench.HERE, 2),
    ]


@pytest.mark.story
@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("outside", "it must be computed by the model it is handed"),
        ("broken", "the gradient of weight is not finite under none: such steps are skipped"),
    ],
)
def test_a_loss_that_says_nothing_is_refused_by_the_ranks(tmp_path: Path, factory: str, words: str) -> None:
    (tmp_path / "own.py").write_text(OWN)
    ended = gradwire(tmp_path, "gradwire", "bench", "--model", f"own:{factory}", "--steps", "2")
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert {file.name for file in tmp_path.iterdir()} <= {"own.py", "__pycache__"}


def test_a_factory_that_ends_or_hangs_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    own = types.ModuleType("bench_odd")
    own.ends, own.hangs = lambda: sys.exit(3), lambda: time.sleep(60)
    monkeypatch.setitem(sys.modules, "bench_odd", own)
    monkeypatch.setattr(workloads, "SECONDS", 0.2)
    for name, words in (("ends", "SystemExit: 3"), ("hangs", "TimeoutError: it has not returned within 0.2 s")):
        with pytest.raises(ValueError, match=f"the factory bench_odd:{name} fails: {words}"):
            workloads.make(f"bench_odd:{name}", 0)


def test_a_verdict_names_its_loops() -> None:
    assert "loops over gradients by " in bench_words.measured_with(records.platform_versions())
