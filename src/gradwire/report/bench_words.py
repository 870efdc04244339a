"""The findings of a benchmark in sentences, also where compression does not pay."""

from __future__ import annotations

from collections.abc import Mapping

from gradwire.lab.bench import HERE, Measured, Sheet
from gradwire.lab.ways import NONE
from gradwire.report import words

Cell = tuple[Measured, ...]

SOONER = 1.05
"""A method counts as faster than dense from this factor on, as steps of the same method vary by as much."""


def winner(cell: Cell) -> Measured | None:
    """The method with the shortest step, "none" excluded; None if there is no other."""
    return min((one for one in cell if one.method != NONE), key=lambda one: one.step, default=None)


def pays(sheet: Sheet, cell: Cell) -> bool | None:
    """Whether some method is faster than dense DDP; None if dense or every other method was not measured."""
    dense, best = sheet.of(cell[0], "dense"), winner(cell)
    others = [one for one in cell if one.method not in (NONE, "dense")]
    return dense.step >= SOONER * best.step if dense and best and others else None


def finding(sheet: Sheet, cell: Cell) -> str:
    """The finding of one link, in one sentence."""
    where, dense, best = f"{_on(cell[0].link)}, {cell[0].ranks} ranks", sheet.of(cell[0], "dense"), winner(cell)
    if not best:
        return f"{where}: only steps without a network were measured"
    step = f"{words.number(best.step * 1e3)} ms a step"
    if not dense or (best is dense and len(cell) <= 2):
        return f"{where}: {best.method} takes {step}"
    if not pays(sheet, cell):
        rivals = [one for one in cell if one.method not in (NONE, "dense")]
        rival = min(rivals, key=lambda one: one.step)
        ratio, slower = words.factor(rival.step / dense.step), words.number(rival.step * 1e3)
        own = words.number(dense.step * 1e3)
        return (
            f"{where}: do not compress; dense DDP takes {own} ms a step, {rival.method} {slower} ms ({ratio} of that)"
        )
    close = [one.method for one in cell if one not in (best, dense) and one.method != NONE and _close(one, best)]
    others = f"; {', '.join(close)} within a tenth of that" if close else ""
    factor = words.factor(dense.step / best.step)
    return f"{where}: {best.method} takes {step}{others}; {factor} times faster than dense DDP"


def headline(sheet: Sheet) -> str:
    """The finding of all links, in one sentence."""
    cells = list(sheet.cells().values())
    if len(cells) == 1:
        return finding(sheet, cells[0])
    verdicts = {verdict: [cell[0] for cell in cells if pays(sheet, cell) is verdict] for verdict in (True, False)}
    yes, no = (_places(verdicts[verdict]) for verdict in (True, False))
    if yes and no:
        return f"Compression pays {yes}; {no} do not compress"
    if yes:
        return f"Compression pays {yes}"
    return f"Do not compress: no method is faster than dense DDP {no}" if no else "What a step costs, method by method"


def remarks(sheet: Sheet) -> list[str]:
    """Caveats of these numbers; empty if there are none."""
    found = [sheet.note] if sheet.note else []
    for one in sheet.measured:
        if one.steps < 5:
            found.append(f"{one.method} at {place(one)}: only {one.steps} steps were timed.")
        if one.step_high > 2 * one.step_low:
            low, high = words.number(one.step_low * 1e3), words.number(one.step_high * 1e3)
            found.append(f"{one.method} at {place(one)}: steps between {low} and {high} ms; the machine was busy.")
    return found


def reading(sheet: Sheet) -> list[str]:
    """How to read the page."""
    return [
        "A step sets gradients to zero, runs forward and backward, and ends with one step of SGD. It begins on all "
        "ranks at once and ends with the last of them. The figure is the median; the 10th and 90th percentiles are in "
        "brackets.",
        "The same processes measured all methods of a link, in turns of a few steps, each on its own copy of the "
        f"model. Compute is the step of {NONE!r}, which averages nothing, in the same run.",
        "Selection is a rank's time on gradients outside the network. Wire is the time in which all ranks are in a "
        "collective. Wait is a rank's further time in a collective, waiting for a slower peer. The bars show the time "
        "that does not overlap with backward: hidden time is subtracted from wire first, then from wait. "
        "Other is the rest: copies, and two threads that share a core.",
        "For torch's own methods only the whole step is known: all time beside compute is shown as one part.",
        "MB are 1,000,000 bytes a rank and step. Sent is counted from tensors, on a ring; link is the kernel's count "
        "of the interface, with headers and acknowledgements.",
        f"gradwire's methods exchange {sheet.bucket_mb:g} MiB together; torch's use DDP's own buckets, PowerSGD one.",
        "The time of a step does not show how much a step learns: for that see gradwire demo.",
    ]


def place(one: Measured) -> str:
    """Link and ranks of a measurement: "100mbit, 2 ranks"."""
    return f"{one.link}, {one.ranks} ranks"


def _close(one: Measured, best: Measured) -> bool:
    return one.step <= 1.1 * best.step


def _on(link: str) -> str:
    return {"loopback": "On loopback", HERE: "On this network"}.get(link, f"At {link}")


def _places(cells: list[Measured]) -> str:
    """List links, with numbers of ranks unless all are equal: "at 10mbit, at 100mbit with 2 ranks"."""
    alike = len({one.ranks for one in cells}) == 1
    links = (_on(one.link) if alike else f"{_on(one.link)} with {one.ranks} ranks" for one in cells)
    return ", ".join(link[0].lower() + link[1:] for link in links)


def measured_with(versions: Mapping[str, str]) -> str:
    """Name the versions, and what runs the loops: without Numba, selection takes several times as long."""
    return f"Measured with torch {versions['torch']}; loops over gradients by {versions['loops']}."
