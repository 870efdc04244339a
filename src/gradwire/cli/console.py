"""The consoles of the command line, and one sentence if its packages are not installed."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Sequence

from gradwire import net

try:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column
except ModuleNotFoundError as missing:
    sys.exit(f"the command line needs {missing.name}: pip install 'gradwire[cli]'")

out, err = Console(), Console(stderr=True)


def bars() -> Progress:
    """Bars with a name, a line of `facts` and the time."""
    columns = (
        TextColumn("{task.description:<18}", markup=False, table_column=Column(overflow="fold", min_width=18)),
        BarColumn(20),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=out)


def numbered(names: Sequence[str], room: int) -> tuple[list[str], list[str]]:
    """Names for a column `room` characters wide, and lines to go below: a longer name has a number in its place."""
    long = {name: f"({index})" for index, name in enumerate((n for n in dict.fromkeys(names) if len(n) > room), 1)}
    return [long.get(name, name) for name in names], [f"{number} {name}" for name, number in long.items()]


def complain(sentence: object) -> None:
    """Print one sentence on what is wrong."""
    err.print(f"gradwire: {sentence}", style="red", markup=False, highlight=False)


def command() -> str:
    """The command line that this process was started with."""
    return shlex.join(["gradwire", *sys.argv[1:]])


def numbers(option: str, given: Iterable[str], least: int, most: int) -> tuple[int, ...]:
    """Read whole numbers, each `given` text one or several with commas between, in their order.

    Raises:
        ValueError: something else, or a number out of bounds, naming it.
    """
    found: list[int] = []
    for word in ",".join(given).split(","):
        if not re.fullmatch(r"\s*[0-9]{1,9}\s*", word) or not least <= int(word) <= most:
            raise ValueError(
                f"{option} takes whole numbers from {least} to {most}, such as 2,4,8; got {word.strip()!r}"
            )
        found.append(int(word))
    return tuple(found)


def link_of(rate: str | None) -> tuple[str | None, str]:
    """The rate that can be had, and the link's name. Prints a warning if the kernel refuses links."""
    if rate is None:
        return None, "loopback"
    bits = net.parse_rate(rate)
    if (reason := net.refusal()) is not None:
        err.print(f"gradwire: going on over loopback: {reason}", style="yellow", markup=False)
        return None, f"loopback ({reason})"
    return rate, f"{bits / 1e6:g} Mbit/s between network namespaces"
