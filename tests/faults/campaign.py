"""The campaign: cases x doors x methods, on real ranks, and its table.

    python tests/faults/campaign.py [--door DOOR ...] [--only WORD ...] [--method METHOD ...] [--missing] [--minutes 60]

Writes results.json beside this file, cell by cell, and the table of docs/reliability.md between its markers.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from cases import CASES
from deaths import DEATHS
from story import watch
from trial import DOORS, METHODS

from gradwire import net

RESULTS, PAGE = HERE / "results.json", HERE.parents[1] / "docs" / "reliability.md"
RANKS = 2
GROUP_SECONDS = 15.0
"""The group's timeout: whoever loses a peer has an error by then."""
SLACK_SECONDS = 90.0
"""For a start, and for the steps before and after, on a busy machine."""
AT_ONCE = 40
"""Cells of one start, at most."""
QUICK_METHODS = ("EF(DEFT)", "DIANA")


class Cell(NamedTuple):
    """One fault at one door with one method."""

    case: str
    door: str
    method: str


Verdicts = dict[Cell, "str | None"]
"""What was wrong; None where every promise was kept."""


def every_cell() -> list[Cell]:
    """Return all cells. Kills are tried with every method only during an exchange; no other phase depends on the
    method.
    """
    found = [Cell(case.name, door, method) for case in CASES.values() for door in case.doors for method in METHODS]
    for name, death in DEATHS.items():
        methods = METHODS if death.phase == "halfway" and death.how == "kill" else ["EF(DEFT)"]
        found += [Cell(name, door, method) for door in death.doors for method in methods]
    return found


def quick_cells() -> list[Cell]:
    """Return the cells that `make test` runs."""
    quick = [case for case in CASES.values() if case.quick]
    found = [Cell(case.name, door, method) for case in quick for door in case.doors for method in QUICK_METHODS]
    return found + [Cell(name, door, "EF(DEFT)") for name, death in DEATHS.items() for door in death.quick]


def run(
    cells: Iterable[Cell], *, seconds: float = 300.0, side_by_side: int = 2, until: float = float("inf")
) -> Iterator[Verdicts]:
    """Run cells, several starts in parallel, and yield what each start has found. Cells not begun by `until` are left
    out.
    """
    together: dict[str, list[Cell]] = {}
    alone: list[Cell] = []
    for cell in cells:
        if cell.case in CASES:
            together.setdefault(cell.door, []).append(cell)
        else:
            alone.append(cell)
    parts = [part[at : at + AT_ONCE] for part in together.values() for at in range(0, len(part), AT_ONCE)]
    with ThreadPoolExecutor(side_by_side) as pool:
        starts = [pool.submit(run_together, part, seconds, until) for part in parts]
        starts += [pool.submit(run_alone, cell, until) for cell in alone]
        for start in as_completed(starts):
            yield start.result()


def run_together(cells: Sequence[Cell], seconds: float, until: float) -> Verdicts:
    """Run cells of one door in one start; after a cell that failed, run the rest in another start."""
    left, found, door = list(cells), Verdicts(), cells[0].door
    while left and time.monotonic() < until:
        names = [f"{cell.case}|{cell.method}" for cell in left]
        try:
            codes, lines, errors = watch(
                "cells", door, *names, ranks=RANKS, seconds=seconds, group=seconds, lives="faults/lives.py"
            )
        except TimeoutError:
            codes, lines, errors = [], [], f"no end within {seconds:.0f} s"
        said = [line for line in lines if "cell" in line]
        for cell, name in zip(list(left), names, strict=True):
            words = [line["red"] for line in said if line["cell"] == name]
            wrong = next((each for each in words if each), None)
            if len(words) == RANKS and wrong is None:
                found[cell] = None
                left.remove(cell)
                continue
            found[cell] = wrong or f"no end: {codes} {(errors.strip().splitlines() or [''])[-1][:200]}"
            left.remove(cell)
            break
    return found


def run_alone(cell: Cell, until: float) -> Verdicts:
    """Run a cell in a separate start. Returns exit codes, time, and what is left of its processes."""
    death, token = DEATHS[cell.case], uuid.uuid4().hex
    rate = "100mbit" if death.links else None
    if time.monotonic() > until or (rate and net.refusal() is not None):
        return {}
    try:
        codes, lines, errors = watch(
            "meets", cell.door, cell.method, cell.case, token, ranks=RANKS, group=GROUP_SECONDS, rate=rate,
            seconds=2 * GROUP_SECONDS + SLACK_SECONDS, grace=GROUP_SECONDS + 5, lives="faults/lives.py",
        )  # fmt: skip
    except TimeoutError as error:
        return {cell: f"no end: {error}"}
    return {cell: judged(codes, lines, errors, death.codes, token)}


def judged(codes: list[int], lines: list[dict], errors: str, wanted: tuple[int, int], token: str) -> str | None:
    """Say what is wrong with how the ranks ended; None if nothing is."""
    if (codes[1], codes[0]) != wanted:
        return f"ended with {codes}: {(errors.strip().splitlines() or [''])[-1][:200]}"
    if any(line["seconds"] > GROUP_SECONDS + 5 for line in lines):
        return f"noticed after {max(line['seconds'] for line in lines):.0f} s only"
    if "terminate called" in errors or "core dumped" in errors:
        return "the interpreter aborts at its end"
    if left := [path for path in Path("/proc").glob("[0-9]*/cmdline") if token in read(path)]:
        return f"{len(left)} processes are left"
    return None


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended meanwhile
        return ""


# ---- the table


def recorded() -> Verdicts:
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    return {Cell(*row[:3]): row[3] for row in rows}


def record(found: Verdicts) -> None:
    known = set(every_cell())
    rows = sorted([*cell, red] for cell, red in (recorded() | found).items() if cell in known)
    RESULTS.write_text(json.dumps(rows, indent=0) + "\n")


def table(found: Verdicts) -> str:
    """Make the table: a row for every case, a column for every door, how many methods keep every promise, and which do
    not.
    """
    cells = every_cell()
    lines = [f"| fault | what must hold | {' | '.join(DOORS)} |\n", "|---|---|" + "---|" * len(DOORS) + "\n"]
    for name in [*CASES, *DEATHS]:
        promises = CASES[name].promises if name in CASES else promised(name)
        row = [entry([cell for cell in cells if cell[:2] == (name, door)], found) for door in DOORS]
        lines.append(f"| {name} | {promises} | {' | '.join(row)} |\n")
    return "".join(lines)


def promised(name: str) -> str:
    return "law, agreement, nothing left" if DEATHS[name].codes == (0, 0) else "end, nothing left"


def entry(cells: Sequence[Cell], found: Verdicts) -> str:
    if not cells:
        return "-"
    ran = [cell for cell in cells if cell in found]
    if not ran:
        return "not run"
    red = [cell.method for cell in ran if found[cell] is not None]
    green = f"{len(ran) - len(red)} of {len(ran)}"
    green += "" if len(ran) == len(cells) else f", {len(cells) - len(ran)} not run"
    return f"{green}; **red: {', '.join(red)}**" if red else green


def reds(found: Verdicts) -> str:
    """Make a line for every cell that failed."""
    lines = [f"* {cell.case}; {cell.door}; {cell.method}: {red}\n" for cell, red in sorted(found.items()) if red]
    return "".join(lines) or "Nothing is red.\n"


def draw() -> None:
    page, found = PAGE.read_text(), recorded()
    for name, text in {"campaign": table(found), "reds": reds(found)}.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page = marked.sub(lambda at, text=text: at[1] + text + at[2], page)
    PAGE.write_text(page)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--door", action="append", choices=DOORS)
    parser.add_argument("--method", action="append", choices=list(METHODS))
    parser.add_argument("--only", action="append", help="a word of the case's name")
    parser.add_argument("--missing", action="store_true", help="only what the table has not")
    parser.add_argument("--minutes", type=float, default=60.0, help="no cell begins later than this")
    chosen = parser.parse_args()
    until = time.monotonic() + 60 * chosen.minutes
    known = recorded() if chosen.missing else {}
    wanted = [
        cell
        for cell in every_cell()
        if cell.door in (chosen.door or DOORS)
        and cell.method in (chosen.method or METHODS)
        and (not chosen.only or any(word in cell.case for word in chosen.only))
        and cell not in known
    ]
    found: Verdicts = {}
    for part in run(wanted, until=until):
        found |= part
        record(part)
    draw()
    red = {cell: words for cell, words in found.items() if words}
    for cell, words in red.items():
        print(f"RED {cell.case}; {cell.door}; {cell.method}: {words}")
    green, missing = len(found) - len(red), len(wanted) - len(found)
    print(f"{green} cells keep every promise, {len(red)} do not, {missing} were not run")
    sys.exit(1 if red else 0)


if __name__ == "__main__":
    main()
