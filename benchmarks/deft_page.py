"""Write the table of the deft-tasks figures into docs/deft.md, between its markers: python benchmarks/deft_page.py"""

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
COLUMNS = (
    "task, density",
    "method",
    "metric, mean [least-most of three seeds]",
    "lost to dense",
    "realised",
    "kB a step",
    "AdamW: metric",
    "lost to dense",
)


def main() -> None:
    page = DOCS / "deft.md"
    marked = re.compile(r"(<!-- tasks -->\n).*?(<!-- /tasks -->)", re.DOTALL)
    page.write_text(marked.sub(lambda found: found[1] + table() + found[2], page.read_text()))


def table() -> str:
    adamw = facts("deft-tasks-adamw")
    rows = [
        [*key[:1], fact["method"], spread(fact), lost(fact), f"{fact['density']:.2%}", f"{fact['kilobytes']:,.1f}"]
        + ([spread(adamw[key]), lost(adamw[key])] if key in adamw else ["", ""])
        for key, fact in facts("deft-tasks").items()
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in [COLUMNS, ["---"] * 2 + ["---:"] * 6, *rows])


def facts(name: str) -> dict[tuple[str, str], dict[str, Any]]:
    found = json.loads((DOCS / "figures" / f"{name}.json").read_text())["facts"]
    return {(f"{fact['task']}, {fact['target']:.0%}", fact["method"]): fact for fact in found}


def spread(fact: dict[str, Any]) -> str:
    return f"{fact['mean']:.3f} [{fact['least']:.3f}-{fact['most']:.3f}]"


def lost(fact: dict[str, Any]) -> str:
    return f"{fact['loss_to_dense'] + 0.0:+.1%}"


if __name__ == "__main__":
    main()
