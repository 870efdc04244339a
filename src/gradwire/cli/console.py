"""The consoles of the command line, and one sentence if its packages are not installed."""

from __future__ import annotations

import shlex
import sys

from gradwire import net

try:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
except ModuleNotFoundError as missing:
    sys.exit(f"the command line needs {missing.name}: pip install 'gradwire[cli]'")

out, err = Console(), Console(stderr=True)


def bars() -> Progress:
    """Bars with a name, a line of `facts` and the time."""
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=out)


def complain(sentence: object) -> None:
    """Print one sentence on what is wrong."""
    err.print(f"gradwire: {sentence}", style="red", markup=False, highlight=False)


def command() -> str:
    """The command line that this process was started with."""
    return shlex.join(["gradwire", *sys.argv[1:]])


def link_of(rate: str | None) -> tuple[str | None, str]:
    """The rate that can be had, and the link's name. Prints a warning if the kernel refuses links."""
    if rate is None:
        return None, "loopback"
    bits = net.parse_rate(rate)
    if (reason := net.refusal()) is not None:
        err.print(f"gradwire: going on over loopback: {reason}", style="yellow", markup=False)
        return None, f"loopback ({reason})"
    return rate, f"{bits / 1e6:g} Mbit/s between network namespaces"
