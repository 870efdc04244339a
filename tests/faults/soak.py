"""A long run with faults: memory, descriptors and threads stay constant, the law holds, and the ranks stay equal.

    python tests/faults/soak.py [--steps 10000] [--ranks 4] [--units 32] [--method METHOD ...] [--minutes 90]

Every few hundred steps a fault happens to a rank: a NaN, an exception halfway through backward on all ranks, a snapshot
in another thread, a pause, a checkpoint that is loaded. Writes soak.json beside this file, and docs/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

METHODS = {"EF(DEFT)": ("DDP", "ef(deft(density=0.05))"), "DIANA": ("bare", "diana(randk(density=0.2))"),
           "local": ("local", "ef(topk(density=0.1))")}  # fmt: skip
RESULTS, PAGE = HERE / "soak.json", HERE.parents[1] / "docs" / "reliability.md"
EVERY = (200, 400)
"""Steps from one fault to the next, at least and at most."""
MOST = {"megabytes": 8.0, "descriptors": 0, "threads": 0}
"""By how much a rank may grow between a tenth of the run, when all is warm, and its end."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--units", type=int, default=32)
    parser.add_argument("--method", action="append", choices=list(METHODS))
    parser.add_argument("--minutes", type=float, default=90.0, help="of one method; then it ends earlier")
    chosen = parser.parse_args()
    rows = [soaked(name, chosen) for name in chosen.method or METHODS]
    for row in rows:
        print(json.dumps(row), flush=True)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    names = {row["method"] for row in rows}
    RESULTS.write_text(json.dumps([*(row for row in known if row["method"] not in names), *rows], indent=1) + "\n")
    draw()
    sys.exit(any(row["grown"][what] > most for row in rows for what, most in MOST.items()))


def soaked(name: str, chosen: argparse.Namespace) -> dict:
    from story import play

    said = play(
        "soak", name, str(chosen.steps), str(chosen.units), str(chosen.minutes), ranks=chosen.ranks,
        seconds=60 * chosen.minutes + 300, lives="faults/soak_ranks.py",
    )  # fmt: skip
    told = [line["result"] for line in said]
    grown = {what: round(max(each["grown"][what] for each in told), 1) for what in MOST}
    return {"method": name, "ranks": chosen.ranks, **told[0], "grown": grown}


def table() -> str:
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    head = "| method | door | steps | ranks | units | faults | grown by, MB | descriptors | threads | law off by |\n"
    lines = [
        f"| {row['method']} | {row['door']} | {row['steps']:,} | {row['ranks']} | {row['units']} | {row['faults']} | "
        + " | ".join(f"{row['grown'][what]:g}" for what in MOST)
        + f" | {row['law']:.0e} |\n"
        for row in rows
    ]
    return head + "|---|---|" + "---:|" * 8 + "\n" + "".join(lines)


def draw() -> None:
    marked = re.compile(r"(<!-- soak -->\n).*?(<!-- /soak -->)", re.DOTALL)
    PAGE.write_text(marked.sub(lambda at: at[1] + table() + at[2], PAGE.read_text()))


if __name__ == "__main__":
    main()
