"""Write the table of docs/figures/deft-tasks.json into docs/deft.md, between its markers: python benchmarks/deft_page.py"""

import json
import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    page = DOCS / "deft.md"
    marked = re.compile(r"(<!-- tasks -->\n).*?(<!-- /tasks -->)", re.DOTALL)
    page.write_text(marked.sub(lambda found: found[1] + table() + found[2], page.read_text()))


def table() -> str:
    facts = json.loads((DOCS / "figures" / "deft-tasks.json").read_text())["facts"]
    rows = [
        f"| {fact['task']}, {fact['target']:.0%} | {fact['method']} | {fact['mean']:.3f} [{fact['least']:.3f}-{fact['most']:.3f}] "
        f"| {fact['loss_to_dense'] + 0.0:+.1%} | {fact['density']:.2%} | {fact['kilobytes']:,.1f} |\n"
        for fact in facts
    ]
    head = (
        "| task, density | method | metric, mean [least-most of three seeds] | lost to dense | realised | kB a step |\n"
    )
    return head + "|---|---|---:|---:|---:|---:|\n" + "".join(rows)


if __name__ == "__main__":
    main()
