"""The Python in the docs runs, and the docs' claims hold."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import typer
from story import play

import gradwire as gw
from gradwire import cli, registry, spec, testing
from gradwire.lab.convex import methods, theory
from gradwire.wire import index

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SHIFTED = (ROOT / "docs" / "shifted.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


RUN = ("README.md", *(f"docs/{page}.md" for page in ("index", "deft", "methods", "parts", "scale", "shifted")))
GROUPED = ("checkpoints", "design", "elastic")


@pytest.mark.parametrize("page", RUN)
def test_the_docs_python_runs(page: str, forget: None) -> None:
    torch.manual_seed(0)
    script = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL))
    exec(compile(script, page, "exec", dont_inherit=True), {})


def test_the_testing_pages_python_runs_and_fails_as_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "testing.md").read_text()
    script = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    exec(compile(script, "docs/testing.md", "exec", dont_inherit=True), {})
    assert capsys.readouterr().out == "".join(re.findall(r"```text\n(.*?)```", page, re.DOTALL))


@pytest.mark.story
@pytest.mark.parametrize("page", GROUPED)
def test_the_docs_python_runs_that_needs_a_group(page: str) -> None:
    assert play(str(ROOT / "docs" / f"{page}.md"), ranks=1, lives="docs_ranks.py")[0]["scripts"] > 0


def test_all_python_in_the_docs_runs_somewhere() -> None:
    """It runs in the tests above, or, if a block is a file with a title, in the tutorial's tests."""
    run = {*RUN, "docs/testing.md", *(f"docs/{page}.md" for page in GROUPED)}
    assert {str(page.relative_to(ROOT)) for page in PAGES if "```python\n" in page.read_text()} == run
    assert [page.stem for page in PAGES if "```python title" in page.read_text()] == ["tutorial"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_changes_in_the_docs_leave_python(page: Path) -> None:
    """The lines that stay and those that are added parse. The tutorial's tests apply the diff of a
    file with a title.
    """
    for indent, body in re.findall(r"^( *)```diff\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL):
        lines = [line.removeprefix(indent) for line in body.splitlines()]
        assert any(line.startswith("+") for line in lines)
        ast.parse(textwrap.dedent("\n".join(line[1:] for line in lines if not line.startswith("-"))))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_docs_exist(page: Path) -> None:
    """gradwire's command line parses its own commands and refuses unknown ones; files, make targets
    and extras exist.
    """
    for line in re.findall(r"^ *\$ ((?:.*\\\n)*.*)$", page.read_text(), re.MULTILINE):
        words = shlex.split(line.replace("\\\n", ""), comments=True)
        if "gradwire" in words:
            _read_command(words[words.index("gradwire") + 1 :])
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        elif words[:2] == ["pip", "install"]:
            extras = re.fullmatch(r"\.\[(.*)\]", words[2])
            assert words[2] == "torch" or not extras or f"\n{extras[1]} = [" in (ROOT / "pyproject.toml").read_text()
        else:
            assert words[0] in ("python", "torchrun"), line
            script = next(word for word in words if word.endswith(".py"))
            assert (ROOT / script).exists() or f'title="{script}"' in page.read_text(), line


def _read_command(words: list[str]) -> None:
    command, name = typer.main.get_command(cli.app), "gradwire"
    while True:
        context = command.make_context(name, list(words))
        if not hasattr(command, "resolve_command"):
            return
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])


@pytest.mark.parametrize(
    ("head", "laws"), [("of compressors", testing.COMPRESSOR_LAWS), ("of exchanges", testing.EXCHANGE_LAWS)]
)
def test_the_docs_name_every_law_as_its_docstring_does(head: str, laws: Mapping[str, object]) -> None:
    page = (ROOT / "docs" / "testing.md").read_text()
    rows = page[page.index(f"| {head} |") :].split("\n\n")[0].replace("\\|", "|").splitlines()[2:]
    claims = {name: " ".join((inspect.getdoc(law) or "").split("\n\n")[0].split()) for name, law in laws.items()}
    assert rows == [f"| {name} | {claim} |" for name, claim in claims.items()]


def test_the_readmes_diffs_are_the_examples() -> None:
    """The added lines, three of examples/local.py, four of ddp.py and two of trainer.py, are in these scripts."""
    diffs = re.findall(r"```diff\n(.*?)```", README, re.DOTALL)
    for diff, script, lines in zip(diffs, ("local.py", "ddp.py", "trainer.py"), (3, 4, 2), strict=True):
        example = (ROOT / "examples" / script).read_text()
        added = [line[1:] for line in diff.splitlines() if line.startswith("+")]
        assert len(added) == lines
        for line in added:
            assert line.strip() in example or line == "print(hook.ledger.bytes)"
        ours = re.compile(r"gradwire\b|hook\.|local\.(?!py)")
        assert len([line for line in example.splitlines() if ours.search(line) and "torchrun" not in line]) <= 6


def test_the_trainers_tabs_show_lines_of_their_examples() -> None:
    """Every added line except imports is in the tab's script, in its code or in its text about local steps."""
    page = (ROOT / "docs" / "trainers.md").read_text()
    tabs = dict(re.findall(r'=== "(.*?)"\n(.*?)(?=\n===|\n\S)', page, re.DOTALL))
    assert list(tabs) == ["DDP", "FSDP2", "Accelerate", "Trainer", "Lightning", "Fabric"]
    for name, tab in tabs.items():
        scripts = [(ROOT / script).read_text() for script in re.findall(r"`(examples/\w+\.py)`", tab)]
        assert scripts, name
        for line in re.findall(r"^    \+(?!from |import )(.*)$", tab, re.MULTILINE):
            assert any(line in script for script in scripts), line


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda script: script.name)
def test_examples_are_short_and_mark_their_lines(script: Path) -> None:
    text = script.read_text()
    assert len(text.splitlines()) <= 60
    assert text.count("# gradwire") >= 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_who_acts(page: Path) -> None:
    assert not re.findall(r"(?i)\b(?:whoever|nobody|anybody|everybody|of which)\b.*", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_specs_in_the_docs_are_specs(page: Path) -> None:
    for quoted in re.findall(r"`([a-z0-9]+\([^`]*\))`", page.read_text()):
        if quoted.split("(")[0] in registry.PARTS and "..." not in quoted:
            assert spec.build(
                quoted if "density" in quoted or "(values" not in quoted else quoted.replace("(", "(0.1, ")
            ), quoted


def test_bytes_are_what_formats_md_says() -> None:
    """The table's last column gives bits a kept value at a density of 1 %."""
    d, k = 1_000_000, 10_000
    assert 8 * index.nbytes(d, k) / k == pytest.approx(8.6, abs=0.05)
    for compressor, bits, kept in (
        (gw.compress.Identity(), 32, d),
        (gw.compress.Natural(), 9, d),
        (gw.compress.TopK(0.01), 8.6 + 32, k),
        (gw.compress.TopK(0.01, "natural"), 8.6 + 9, k),
        (gw.compress.ChunkedTopK(0.01, "bits2"), 8.6 + 2, gw.compress.ChunkedTopK(0.01).count(d)),
        (gw.compress.RandK(0.01), 32, k),
        (gw.compress.Dithering(16), 6, d),
        (gw.compress.NaturalDithering(8), 5, d),
        (gw.compress.Ternary(), 1.6, d),
        (gw.compress.ScaledSign(), 1, d),
        (gw.compress.Bernoulli(0.2), 32, d),
        (gw.compress.Chain(gw.compress.TopK(0.01), gw.compress.Natural()), 8.6 + 9, k),
        (gw.compress.Induced(gw.compress.TopK(0.01), gw.compress.RandK(0.01)), 8.6 + 32 + 32, k),
        (gw.compress.Blockwise(gw.compress.Ternary(), 256), 1.75, d),
    ):
        assert 8 * compressor.nbytes(d) / kept == pytest.approx(bits, abs=0.05)


def test_a_threshold_sends_what_formats_md_says() -> None:
    x = torch.zeros(1_000_000)
    x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:10_000]] = 1.0
    wire = gw.compress.HardThreshold(0.01).encode(x, gw.Turn(0, 1, 0, gw.Layout(["x"], [x.shape])))
    assert 8 * len(wire) / 10_000 == pytest.approx(8.6 + 32, abs=0.05)


def test_the_operators_table_is_what_they_promise() -> None:
    """Every compressor has a row, and its constants and bits at d = 1,000,000 are those of the code."""
    d, rows = 1_000_000, _rows("| operator |")
    assert {row[0].split("(")[0] for row in rows} == {
        name for name, entry in registry.parts("compressor").items() if entry.origin.startswith("gradwire.")
    }
    for text, kind, omega, delta, bits, *_ in rows:
        part = spec.build(text)
        assert (omega, delta) == (_number(part.omega(d)), _number(part.delta(d))), text
        assert bits == _number(8 * part.nbytes(d) / d), text
        assert kind == ("exact" if part.omega(d) == 0 else "contractive" if part.omega(d) is None else "unbiased"), text


def test_the_exchanges_table_is_what_they_do() -> None:
    layout = gw.Layout(["matrix"], [(1000, 1000)])
    for text, kind, omega, delta, bits, *_ in _rows("| exchange |"):
        sim = gw.Simulator(text, layout, workers=4, batched=True)
        sim.step(torch.randn(4, layout.d, generator=torch.Generator().manual_seed(0)))
        assert bits == _number(8 * sim.ledger.bytes / layout.d), text
        assert (omega, delta) == (_number(sim.exchange.omega(layout.d)), _number(sim.exchange.delta(layout.d))), text
        assert kind == ("contractive" if omega == "-" else "unbiased")


def test_the_methods_table_names_every_method_and_its_theorem() -> None:
    rows = _rows("| method |")
    named = {name: row for row in rows for name in re.findall(r", `(\w+)`$", row[0])}
    assert set(named) == set(methods.METHODS) - {"gd"}
    for name, row in named.items():
        assert spec.parse(row[1])
        theorem = re.match(r"`?theory\.(\w+)", row[4])
        assert (theorem and getattr(theory, theorem[1])) is theory.METHODS.get(name), name


def test_the_figures_show_what_is_read_in_them() -> None:
    ridge, dithering, gdci, induced, logistic = (
        _facts(name) for name in ("ridge-table", "dithering", "gdci", "induced", "logistic")
    )
    for (_, label), facts in ridge.items():
        assert (facts["plateau"] > 1e-9) == (label in ("DCGD", "DCGD-FIXED", "GDCI")), label
    for panel in ("Rand-K, K/d = 0.1", "Rand-K, K/d = 0.5"):
        assert ridge[panel, "DCGD"]["bytes"] < ridge[panel, "DIANA"]["bytes"]
        assert ridge[panel, "DCGD-STAR"]["rounds"] < ridge[panel, "DIANA"]["rounds"]
    two, eight = (f"natural dithering, s = {s}" for s in (2, 8))
    assert dithering[eight, "DIANA"]["rounds"] < 1.3 * dithering[eight, "DCGD-STAR"]["rounds"]
    assert dithering[two, "DIANA"]["bytes"] == pytest.approx(6 * dithering[eight, "DIANA"]["bytes"], rel=0.1)
    assert all((facts["plateau"] > 1e-7) == (label == "GDCI") for (_, label), facts in gdci.items())
    for panel in {panel for panel, _ in induced}:
        plain, twice, both = (induced[panel, label] for label in ("DIANA", "DIANA, K twice", "generalised DIANA"))
        assert twice["rounds"] < both["rounds"] < plain["rounds"]
        assert twice["bytes"] < plain["bytes"] < both["bytes"]
    restarts = {label: facts for (_, label), facts in _facts("rand-diana").items()}
    rare, often = (restarts[f"p = {times} / (1 + omega)"] for times in ("0.1", "10"))
    assert often["rounds"] == pytest.approx(rare["rounds"], rel=0.1)
    assert often["bytes"] == pytest.approx(14 * rare["bytes"], rel=0.1)
    assert restarts["M = 0.25 M'"]["rounds"] < restarts["M = 2 M'"]["rounds"]
    for (_, label), facts in logistic.items():
        assert (facts["plateau"] > 0.1) == (label in ("DCGD", "DCGD-FIXED")), label
        assert facts["plateau"] > 0.1 or facts["plateau"] < 1e-5


def test_the_figure_of_local_steps_shows_what_is_read_in_it() -> None:
    page, facts = SHIFTED[SHIFTED.index("**locodl**") :].split("\n\n")[0], _facts("locodl")
    assert len({panel for panel, _ in facts}) == 2
    for (panel, label), found in facts.items():
        assert found["contraction"] <= found["rate"], label
        ours, local = facts[panel, "LoCoDL, natural"], facts[panel, "local steps, uncompressed"]
        if label in ("gradient descent", "DIANA, natural"):
            assert found["rounds"] > 15 * ours["rounds"]
            assert found["bytes"] > 20 * ours["bytes"]
        assert ours["bytes"] < 0.33 * local["bytes"]
        if panel.startswith("ridge") and not label.startswith("LoCoDL, Rand-K"):
            assert f"{found['rounds']:,}" in page, label


def test_the_studies_show_what_is_read_in_them() -> None:
    """The sentences under the figures of docs/deft.md, and its table, agree with the studies' results."""
    scaling = {(fact["method"], fact["workers"]): fact for fact in _study("deft-scaling")}
    deft, exact, union, micro = (scaling[name, 16] for name in ("DEFT", "DEFT, exact", "Top-k, union", "MiCRO"))
    assert 0.9 < deft["density_least"] < deft["density_most"] < 1.1
    assert exact["density_least"] == pytest.approx(exact["density_most"], rel=1e-12)
    assert exact["density"] == pytest.approx(1.0, abs=1e-3)  # k is rounded down
    assert union["density"] > 7
    assert 0.95 < micro["late_density"] < 1.05
    assert not 0.909 < micro["late_least"] < micro["late_most"] < 1.1
    assert max(1 / micro["late_least"], micro["late_most"]) < 1.5
    assert union["residual"] < 0.55 * deft["residual"]
    for method in ("DEFT", "DEFT, exact", "CLT-k"):
        assert scaling[method, 16]["kilobytes"] < scaling[method, 1]["kilobytes"] < union["kilobytes"] / 6
    quality = {(fact["task"], fact["target"], fact["method"]): fact for fact in _study("deft-tasks")}
    assert quality["language", 0.1, "DEFT"]["mean"] < quality["language", 0.1, "Top-k, union"]["mean"]
    for task, behind in (("vision", 0.022), ("recommendation", 0.023)):
        ours, theirs = (quality[task, 0.1, method]["mean"] for method in ("DEFT", "Top-k, union"))
        assert 1 - ours / theirs == pytest.approx(behind, abs=0.001)
    assert quality["vision", 0.01, "DEFT"]["loss_to_dense"] == pytest.approx(0.125, abs=0.001)
    assert quality["vision", 0.01, "Top-k, union"]["loss_to_dense"] == pytest.approx(0.053, abs=0.001)
    losses = [fact["loss"] for fact in _study("deft-density")]
    assert losses == sorted(losses)
    page = (ROOT / "docs" / "deft.md").read_text()
    rows = [row for row in page.splitlines() if re.match(r"\| (vision|language|recommendation), ", row)]
    assert len(rows) == len(quality)
    for row, fact in zip(rows, quality.values(), strict=True):
        assert f"{fact['mean']:.3f} [{fact['least']:.3f}-{fact['most']:.3f}]" in row


def _facts(figure: str) -> dict[tuple[str, str], dict[str, float]]:
    """Return the facts of each curve in a figure's JSON, by panel and label."""
    curves = json.loads((ROOT / "docs" / "figures" / f"{figure}.json").read_text())["curves"]
    return {(curve["panel"], curve["label"]): curve["facts"] for curve in curves}


def _rows(head: str) -> list[list[str]]:
    """Return the cells of a table of docs/shifted.md that begins like this. A cell that is one spec loses its
    backticks.
    """
    lines = SHIFTED[SHIFTED.index(f"\n{head}") + 1 :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [[cell[1:-1] if re.fullmatch("`[^`]*`", cell) else cell for cell in row] for row in cells]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _study(name: str) -> list[dict[str, float]]:
    """Return the facts of a study that is drawn in the docs."""
    return json.loads((ROOT / "docs" / "figures" / f"{name}.json").read_text())["facts"]


def test_the_speed_page_shows_the_results_that_lie_beside_it() -> None:
    page = (ROOT / "docs" / "speed.md").read_text()
    results = ROOT / "benchmarks" / "results"
    for name in ("latest", "map", "race", "race_sgd"):
        found = json.loads((results / f"{name}.json").read_text())
        for row in found if isinstance(found, list) else found["rows"]:
            assert row.keys() == {"name", "value", "bar", "holds"}
            assert f"| {row['name']} | {row['value']:.3g} |" in page, row


def test_two_bits_are_as_near_as_formats_md_says() -> None:
    """The table is that of the results, the text about it holds, and the first row is what the code does today."""
    found = json.loads((ROOT / "benchmarks" / "results" / "two_bits.json").read_text())
    results = {row["name"]: row["value"] for row in found}
    page, ratios = (ROOT / "docs" / "formats.md").read_text(), list[float]()
    for name in dict.fromkeys(name.split(": ")[0] for name in results):
        held, ours, theirs = (results[f"{name}: {what}"] for what in ("held", "error of bits2", "error of four bins"))
        sizes = [results[f"{name}: bytes of {code}"] for code in ("bits2", "four bins")]
        assert f"| {name} | {held:.3f} | {ours:.4f} | {theirs:.4f} | {sizes[0]:.0f} | {sizes[1]:.0f} |" in page
        ratios.append(round(ours / theirs, 2))
    assert (min(ratios), max(ratios)) == (0.27, 0.62)
    held = [results[f"ten steps of a GPT, {way}: held"] for way in ("whole vector", "chunks of 4096")]
    assert held[1] < 0.9 * held[0]
    x = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    kept = x[gw.compress.TopK(1 / 64).choose(x, gw.Turn(0, 1, 0, gw.Layout(["x"], [x.shape])))]
    error = kept - gw.compress.Identity("bits2").apply(kept, gw.Turn(0, 1, 0, gw.Layout(["x"], [kept.shape]))).dense()
    relative = (error.square().sum() / kept.square().sum()).item()
    # Three seeds are averaged there; a message of 16,384 values differs by a few per cent from another.
    assert relative == pytest.approx(results["normal, whole vector: error of bits2"], rel=0.1)


def test_the_page_on_adam_shows_the_results_that_lie_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import adam_page

    page = (ROOT / "docs" / "adam.md").read_text()
    for name, table in adam_page.tables().items():
        assert f"<!-- {name} -->\n{table}<!-- /{name} -->" in page
    shadows = {row["shadow"]: row["along_dense"] for row in adam_page.read("adam_mechanism")["gpt"]}
    sgd, adam, updates = (shadows[f"EF(Top-k) 1 %{what}"] for what in (", SGD", ", Adam", " of the update"))
    assert sgd > 0.95 > 0.75 > updates - 0.05 > adam + 0.5
    ends = {row["label"]: row["losses"] for row in adam_page.best()}
    assert min(ends["EF(Top-k) 1 %"]) > max(ends["EF(Top-k) 1 % of the update"]) + 0.1
    assert max(ends["EF(Top-k) 10 %"]) < min(ends["EF(Top-k) 1 % of the update"])


def test_a_spike_is_worth_what_the_page_says() -> None:
    """After a long pause Adam moves (1 - beta1) / sqrt(1 - beta2) at once, and 5.8 in all, for spikes of every size."""
    for size in (1e-3, 1e3):
        x = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        adam = torch.optim.Adam([x], lr=1.0, betas=(0.9, 0.95), eps=0.0)
        adam.state[x] = {"step": torch.tensor(1e4), "exp_avg": torch.zeros_like(x), "exp_avg_sq": torch.zeros_like(x)}
        x.grad = torch.full_like(x, size)
        adam.step()
        assert x.item() == pytest.approx(-0.1 / 0.05**0.5)
        x.grad.zero_()
        for _ in range(99):
            adam.step()
        assert x.item() == pytest.approx(-5.84, abs=0.01)


def test_a_hundredth_of_the_values_in_nine_bits_is_a_180th_of_the_bytes() -> None:
    d = 10_000_000
    assert 180 <= 4 * d / gw.compress.TopK(density=0.01, values="natural").nbytes(d) <= 185


def test_the_page_on_local_steps_shows_its_results() -> None:
    page = (ROOT / "docs" / "local-lab.md").read_text()
    shown = 0
    for fact in _study("local-methods"):
        name, loss, fewer = fact["method"], fact["loss"], fact["times fewer bytes"]
        row = re.search(rf"\| {re.escape(name)} \| ([\d.]+) \| ([+\d.]*) ?\| (\d+) \|", page)
        if row is not None:
            assert (row[1], row[3]) == (f"{loss:.3f}", f"{fewer:.0f}"), name
            assert row[2] in ("", f"{fact['to dense']:+.3f}")
            shown += 1
    assert shown == 12
    for run in json.loads((ROOT / "benchmarks" / "results" / "local_warmup.json").read_text()):
        assert " ".join(f"{loss:.3f}" for loss in run["losses"]) in page


def test_records_name_no_folder_of_a_machine() -> None:
    """Sources of data are named as they lie among installed packages."""
    for folder in ("docs/figures", "benchmarks/results"):
        for record in (ROOT / folder).glob("*.json"):
            assert "site-packages" not in record.read_text(), record
