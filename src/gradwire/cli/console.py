"""The command line's consoles and formatting; exits with one sentence if rich is not installed."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from gradwire import net

try:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column
except ModuleNotFoundError as missing:
    sys.exit(f"the command line needs {missing.name}: pip install 'gradwire[cli]'")

out, err = Console(), Console(stderr=True)


def bars() -> Progress:
    """Make progress bars, each with a name, a field `facts` and the elapsed time."""
    columns = (
        TextColumn("{task.description:<18}", markup=False, table_column=Column(overflow="fold", min_width=18)),
        BarColumn(20),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=out)


def numbered(names: Sequence[str], width: int) -> tuple[list[str], list[str]]:
    """Fit names into a column of `width` characters: a longer one is replaced by a number.

    Returns the names as shown, and a line "(1) the long name" for every number.
    """
    long = {name: f"({index})" for index, name in enumerate((n for n in dict.fromkeys(names) if len(n) > width), 1)}
    return [long.get(name, name) for name in names], [f"{number} {name}" for name, number in long.items()]


def complain(sentence: object) -> None:
    """Print an error as one sentence on standard error."""
    err.print(f"gradwire: {sentence}", style="red", markup=False, highlight=False)


def command() -> str:
    """The command line with which this process was started."""
    return shlex.join(["gradwire", *sys.argv[1:]])


def numbers(option: str, given: Iterable[str], least: int, most: int) -> tuple[int, ...]:
    """Parse whole numbers, in order, from texts that each hold one or several of them separated by commas.

    Raises:
        ValueError: a word is not a whole number, or lies outside [least, most]; the message names it.
    """
    found: list[int] = []
    for word in ",".join(given).split(","):
        if not re.fullmatch(r"\s*[0-9]{1,9}\s*", word) or not least <= int(word) <= most:
            raise ValueError(
                f"{option} takes whole numbers from {least} to {most}, such as 2,4,8; got {word.strip()!r}"
            )
        found.append(int(word))
    return tuple(found)


def check_folder(output: Path, what: str) -> None:
    """Check that the folder of an output exists; ValueError if not, naming `what` was to be written there."""
    if not output.resolve().parent.is_dir():
        raise ValueError(f"there is no folder {output.parent} to write {what} to")


def link_of(rate: str | None) -> tuple[str | None, str]:
    """Return the usable rate (None: loopback) and the link's description; warn if the kernel refuses shaped links."""
    if rate is None:
        return None, "loopback"
    bits = net.parse_rate(rate)
    if (reason := net.refusal()) is not None:
        err.print(f"gradwire: going on over loopback: {reason}", style="yellow", markup=False)
        return None, f"loopback ({reason})"
    return rate, f"{bits / 1e6:g} Mbit/s between network namespaces"
