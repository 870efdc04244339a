"""Write docs/scale.md's tables, between their markers, and its figure: python benchmarks/scale_page.py

Uses results/scale.json and results/scale_check.json, and measures nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rows import RESULTS

from gradwire.lab import scale
from gradwire.lab.studies import chart
from gradwire.lab.studies.draw import draw

DOCS = Path(__file__).parents[1] / "docs"
ISLAND = 8
SHOWN = (2, 8, 64, 512, 1024)
"""Numbers of workers in the detailed table."""


def main() -> None:
    sheet = sheet_of()
    page = DOCS / "scale.md"
    text = page.read_text()
    island = replace(sheet, plan=replace(sheet.plan, island=ISLAND))
    tables = {
        "map": fastest(sheet),
        "islands": fastest(island),
        "crossings": crossings(sheet),
        "work": everything(sheet),
        "check": checked(),
        "about": about(sheet),
    }
    for name, table in tables.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = marked.sub(lambda found, table=table: found[1] + table + found[2], text)
    page.write_text(text)
    picture = figure(sheet, island)
    chart.write(picture, DOCS / "figures", "python benchmarks/scale_page.py")
    draw(picture, DOCS / "figures" / "scale.png")


def sheet_of() -> scale.Forecast:
    return scale.Forecast.from_json((RESULTS / "scale.json").read_text())


def show(sheet: scale.Forecast) -> None:
    """Print the fastest methods."""
    for size in sheet.plan.sizes:
        for rate in sheet.plan.rates:
            one = scale.best(sheet, rate, size)
            print(f"{size:5d} {rate:>8} {one.work.method} {1e3 * one.step:.1f} ms")


def fastest(sheet: scale.Forecast) -> str:
    """A line for every number of workers: the fastest method that exchanges at every step, and local steps."""
    rates = sheet.plan.rates
    lines = [f"| workers | {' | '.join(rates)} |", f"|---:|{'---|' * len(rates)}"]
    for size in sheet.plan.sizes:
        lines.append(f"| {size} | {' | '.join(cell(sheet, rate, size) for rate in rates)} |")
    return "\n".join(lines) + "\n"


def cell(sheet: scale.Forecast, rate: str, size: int) -> str:
    one = scale.best(sheet, rate, size, every_step=True)
    text = f"`{one.work.method}` {milliseconds(one.step)}"
    local = [p for p in scale.predictions(sheet, rate, size) if p.work.every > 1]
    return text + (f"; `{local[0].work.method}` {milliseconds(local[0].step)}" if local else "")


def milliseconds(seconds: float) -> str:
    return "-" if math.isinf(seconds) else f"{1e3 * seconds:,.0f} ms"


def crossings(sheet: scale.Forecast) -> str:
    found = scale.crossovers(sheet)
    return "".join(f"- {sentence}.\n" for sentence in found) or "- none.\n"


def everything(sheet: scale.Forecast) -> str:
    """The detailed table: the rehearsed work, and the wire at one rate."""
    rate = "1gbit"
    lines = [
        f"| method | workers | MB up | MB down | selection ms | decoding ms | held MB | wire ms at {rate} | step ms |"
    ]
    lines.append(f"|---|{'---:|' * 8}")
    for method in sheet.plan.methods:
        for size in SHOWN:
            for one in (p for p in scale.predictions(sheet, rate, size) if p.work.method == method):
                if not one.work.refusal:
                    lines.append(f"| `{method}` | {size} | {' | '.join(figures(one))} |")
    return "\n".join(lines) + "\n"


def figures(one: scale.Prediction) -> Iterator[str]:
    work = one.work
    for value in (work.up / 1e6, work.down / 1e6, 1e3 * work.selection, 1e3 * work.decode, work.memory / 1e6):
        yield f"{value:,.3g}" if value < 100 else f"{value:,.0f}"
    for seconds in (one.wire, one.step):
        yield f"{1e3 * seconds:,.3g}" if seconds < 0.1 else f"{1e3 * seconds:,.0f}"


def checked() -> str:
    """The model compared with real ranks."""
    file = RESULTS / "scale_check.json"
    if not file.exists():
        return "Not measured yet: `python benchmarks/scale_check.py`.\n"
    found = json.loads(file.read_text())
    lines = ["| method | " + " | ".join(f"{c['ranks']} ranks: predicted | measured" for c in found["cells"]) + " |"]
    lines.append("|---|" + "---:|---:|" * len(found["cells"]))
    for method in found["cells"][0]["predicted"]:
        pairs = (
            f"{1e3 * c['predicted'][method]:.0f} ms | {1e3 * c['measured'][method]:.0f} ms" for c in found["cells"]
        )
        lines.append(f"| `{method}` | {' | '.join(pairs)} |")
    lines += ["", "| what | value | bar | holds |", "|---|---:|---:|---|"]
    for row in found["rows"]:
        holds = "" if row["holds"] is None else "yes" if row["holds"] else "**no**"
        lines.append(f"| {row['name']} | {row['value']:.3g} | {row['bar'] or ''} | {holds} |")
    loads = ", ".join(f"{c['load']:.0f} with {c['ranks']} ranks" for c in found["cells"])
    return "\n".join(lines) + f"\n\nThe links had {found['rate']}; the machine's load average was {loads}.\n"


def about(sheet: scale.Forecast) -> str:
    plan = sheet.plan
    return (
        f"The figure and the tables of predictions are for `{plan.model}` with {sheet.parameters / 1e6:.1f} M parameters. Computing a step takes "
        f"{1e3 * sheet.compute:.0f} ms, and a message takes\n{1e6 * plan.latency:.0f} us on a slow link and "
        f"{1e6 * plan.near:.0f} us inside an island.\n"
    )


def figure(sheet: scale.Forecast, island: scale.Forecast) -> chart.Chart:
    """The step by the number of workers: a panel for each rate on a flat network, and one with islands."""
    panels: list[chart.Panel] = []
    lines: list[chart.Line] = []
    facts: list[dict[str, object]] = []
    places = [(sheet, rate, rate) for rate in ("100mbit", "1gbit", "10gbit")]
    places += [(island, rate, f"islands of {ISLAND}, {rate} between") for rate in ("1gbit",)]
    for one, rate, title in places:
        panels.append(chart.Panel(title, "workers", "ms a step", True, True, level=1e3 * one.compute))
        for method in one.plan.methods:
            found = [
                (size, p)
                for size in one.plan.sizes
                for p in scale.predictions(one, rate, size)
                if p.work.method == method and not p.work.refusal
            ]
            x = tuple(float(size) for size, _ in found)
            lines.append(chart.Line(title, method, x, tuple(1e3 * p.step for _, p in found)))
            for size, p in found:
                facts.append({
                    "network": title, "method": method, "workers": size, "step_ms": 1e3 * p.step, "wire_ms": 1e3 * p.wire,
                    "selection_ms": 1e3 * p.work.selection, "decode_ms": 1e3 * p.work.decode,
                    "bytes_up": p.work.up, "bytes_down": p.work.down, "memory": p.work.memory,
                })  # fmt: skip
    caption = "Rehearsed computing, one thread a worker; the network is a model. The line: a step without a network."
    title = "What a step takes by the number of workers"
    return chart.Chart("scale", title, caption, tuple(panels), tuple(lines), tuple(facts))


if __name__ == "__main__":
    main()
