"""Write results/local_cost.json into the table of docs/local.md.

python benchmarks/local_cost_page.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from rows import RESULTS

PAGE = Path(__file__).parent.parent / "docs" / "local.md"


def main() -> None:
    found = json.loads((RESULTS / "local_cost.json").read_text())
    cases: dict[str, dict[str, float]] = {}
    for row in found["rows"]:
        case, _, what = row["name"].partition(": ")
        cases.setdefault(case, {})[what] = row["value"]
    lines = ["| | copies, median | slowest | bytes a parameter | at its peak |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {case} | {' | '.join(f'{value:.1f}' for value in values.values())} |" for case, values in cases.items()
    ]
    text = "<!-- cost -->\n" + "\n".join(lines) + "\n<!-- /cost -->"
    PAGE.write_text(re.sub(r"<!-- cost -->.*<!-- /cost -->", text, PAGE.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    main()
