"""One rank of a benchmark: `python -m gradwire.lab.bench.rank CELL`, started by `gradwire.net`.

Rank 0 prints events, one JSON object a line: start, step, end.
"""

from __future__ import annotations

import sys
from dataclasses import asdict

from gradwire.lab.bench.plan import Cell
from gradwire.lab.bench.race import measure
from gradwire.lab.remote import live, say

TIMEOUT_SECONDS = 1800
"""Of one collective: a dense one on a slow link takes minutes."""


def main() -> None:
    """Measure a cell, tell, and leave."""

    def work() -> None:
        model, measured = measure(Cell.from_json(sys.argv[1]), say)
        say("end", model=asdict(model), measured=[asdict(one) for one in measured])

    live(work, TIMEOUT_SECONDS, (ValueError,))


if __name__ == "__main__":
    main()
