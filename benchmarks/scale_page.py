"""Write the tables of docs/scale.md between their markers, and its figure, from results/scale*.json."""

from __future__ import annotations

from rows import RESULTS

from gradwire.lab import scale


def sheet_of() -> scale.Sheet:
    return scale.Sheet.from_json((RESULTS / "scale.json").read_text())


def show(sheet: scale.Sheet) -> None:
    for size in sheet.plan.sizes:
        for rate in sheet.plan.rates:
            one = scale.best(sheet, rate, size)
            print(f"{size:5d} {rate:>8} {one.work.method} {1e3 * one.step:.1f} ms")
