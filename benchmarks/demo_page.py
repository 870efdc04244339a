"""Write the demo's figures into the docs: gradwire demo --full, then python benchmarks/demo_page.py gradwire-report.json

Copies the record to benchmarks/results/demo.json, and writes docs/demo.md, docs/demo.png and the table between README.md's markers.
"""

import re
import sys
from pathlib import Path

from gradwire.lab.comparison.record import Comparison, Run
from gradwire.lab.studies import chart
from gradwire.lab.studies.draw import draw
from gradwire.report import sentences

ROOT = Path(__file__).parents[1]


def main(file: str) -> None:
    comparison = Comparison.from_json(Path(file).read_text())
    (ROOT / "benchmarks" / "results").mkdir(exist_ok=True)
    (ROOT / "benchmarks" / "results" / "demo.json").write_text(comparison.to_json())
    (ROOT / "docs" / "demo.md").write_text(page(comparison))
    draw(picture(comparison), ROOT / "docs" / "demo.png")
    readme = ROOT / "README.md"
    marked = re.compile(r"(<!-- demo -->\n).*?(\n<!-- /demo -->)", re.DOTALL)
    readme.write_text(marked.sub(lambda found: found[1] + table(comparison) + found[2], readme.read_text()))


def table(comparison: Comparison) -> str:
    """README's table."""
    return "\n".join(
        ["| | ms a step | MB a step | dense's final loss |", "|---|---:|---:|---:|"]
        + [
            f"| {run.name} | {ms(run)} | {megabytes(run.ledger_bytes, run)} | {reached(comparison, run)} |"
            for run in comparison.runs
        ]
    )


def picture(comparison: Comparison) -> chart.Chart:
    """Held-out loss over seconds and over megabytes, with a dotted line at dense's final loss."""
    axes = {
        "over wall-clock time": ("seconds of training", lambda at: at.seconds, False),
        "over bytes": ("MB sent by one rank", lambda at: at.sent_bytes / 1e6, True),
    }
    level = comparison.baseline.points[-1].loss
    panels = tuple(
        chart.Panel(title, label, "held-out loss, nats per byte", log, level=level)
        for title, (label, _, log) in axes.items()
    )
    lines = [
        chart.Line(title, run.name, tuple(map(x, points)), tuple(at.loss for at in points))
        for title, (_, x, log) in axes.items()
        for run in comparison.runs
        for points in [[at for at in run.points[1:] if x(at) > 0 or not log]]
    ]
    return chart.Chart("demo", sentences.headline(comparison), "", panels, tuple(lines))


def page(comparison: Comparison) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in comparison.versions.items())
    rows = [
        f"| {run.name} | {run.points[-1].step} | {ms(run)} [{1e3 * run.step_seconds_low:.0f}-{1e3 * run.step_seconds_high:.0f}] | "
        f"{' + '.join(f'{1e3 * part:.0f}' for part in (run.split.compute, run.split.selection, run.split.wire))} | "
        f"{megabytes(run.ledger_bytes, run)} | {megabytes(run.link_bytes, run)} | {ratio(run)} | "
        f"{run.points[-1].loss:.3f} | {reached(comparison, run)} |"
        for run in comparison.runs
    ]
    return "\n".join(
        [
            "# The demo's figures",
            "",
            f"This page has all numbers of the full demo, in which one model is trained over a slow link by {len(comparison.runs)} "
            f"methods,\n{comparison.budget_seconds:g} seconds each. `gradwire demo` makes a shorter comparison of the same methods "
            "on your machine.",
            "",
            f"- **Model:** {comparison.model}.",
            f"- **Data:** {comparison.corpus}.",
            f"- **Machine:** {comparison.ranks} ranks, one thread each, on two cores; {comparison.link}; {versions}.",
            f"- **Runs:** one seed, one run each, by `{comparison.command}`; `python benchmarks/demo_page.py "
            "gradwire-report.json` writes this page.",
            "",
            f"{sentences.headline(comparison)}. {sentences.deck(comparison)} {sentences.noise(comparison)}",
            "",
            comparison.note,
            "",
            "![Held-out loss of every run over wall-clock time and over bytes](demo.png)",
            "",
            "The median step is split into computing, selection and wire, in ms. Bytes a step are counted twice: by gradwire's ledger",
            "(for torch's own methods, which have none, the bytes of a ring all-reduce) and by the kernel, whose `tx_bytes` include",
            "headers. The last column says when a run reached the loss at which dense DDP ended.",
            "",
            "| run | steps | ms a step, median [p10-p90] | compute + selection + wire | MB a step, ledger | MB a step, tx_bytes "
            "| tx less headers / ledger | final held-out loss, nats a byte | dense's final loss reached |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
            *rows,
            "",
            "For local steps a step is the average over a round of ten steps and one exchange. On a machine that refuses network",
            "namespaces `gradwire demo` runs over loopback, and its report says what pays on so fast a network.",
            "",
        ]
    )


def ms(run: Run) -> str:
    return f"{1e3 * run.step_seconds:.0f}"


def megabytes(count: int, run: Run) -> str:
    return f"{count / run.points[-1].step / 1e6:.3f}"


def ratio(run: Run) -> str:
    return f"{run.link_payload / run.ledger_bytes:.3f}" if run.link_bytes else "-"


def reached(comparison: Comparison, run: Run) -> str:
    seconds, speedup = comparison.seconds_to_baseline(run), comparison.speedup(run)
    if run is comparison.baseline:
        return f"after {run.points[-1].seconds:.0f} s"
    return f"after {seconds:.1f} s, {speedup:.1f} times sooner" if seconds and speedup else "not reached"


if __name__ == "__main__":
    main(*sys.argv[1:])
