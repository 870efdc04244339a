"""The seconds of `import gradwire` beyond `import torch`: the median over fresh processes.

python benchmarks/imports.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from rows import Row, row, show

SCRIPT = "import time, torch; began = time.perf_counter(); import gradwire; gradwire.attach; print(time.perf_counter() - began)"


def main() -> None:
    show(judge())


def judge(repeats: int = 7) -> list[Row]:
    """Make one row; the bar is 0.2 s."""
    script = SCRIPT
    found = [float(subprocess.check_output([sys.executable, "-c", script], text=True)) for _ in range(repeats)]
    return [row("import gradwire beyond import torch, seconds", statistics.median(found), most=0.2)]


if __name__ == "__main__":
    main()
