"""`gradwire bench`: measure the time and bytes of a step with every method, and where its time goes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rich.progress import Progress, TaskID

from gradwire import net
from gradwire.cli.bench_table import table
from gradwire.cli.console import bars, check_folder, command, complain, link_of, numbers, out
from gradwire.lab import bench
from gradwire.report import bench as page
from gradwire.report import bench_words, words
from gradwire.report.whole import write_whole

LOOPBACK = "loopback"


def measure(
    model: str,
    method: list[str] | None,
    rate: list[str] | None,
    ranks: list[str] | None,
    steps: int,
    seconds: float,
    bucket_mb: float,
    here: bool,
    output: Path,
) -> None:
    """Run `gradwire bench`: measure, print and write the result. The arguments are the command's options.

    Raises:
        ValueError: an option is invalid, the page cannot be written, or rates or ranks are given with --here.
    """
    here = here or "WORLD_SIZE" in os.environ
    if here and (rate or ranks):
        raise ValueError("the network and its ranks are used as they are: leave out --rate and --ranks")
    rates, note = _rates(rate or [LOOPBACK])
    methods = tuple(method) if method else bench.METHODS
    plan = bench.BenchPlan(model, methods, rates, numbers("--ranks", ranks or ["2"], 1, 64), steps, seconds, bucket_mb)
    _check_output(output)
    if here:
        bench.live_here(lambda first: _measure_here(plan, output, first), complain)
    with bars() as progress:
        sheet = bench.run(plan, Bars(progress).update, command(), note)
    _finish(sheet, output)


class Bars:
    """A progress bar for every method on every link and number of ranks."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.tasks: dict[tuple[str, str, int], TaskID] = {}

    def update(self, event: bench.Progress) -> None:
        """Advance the event's bar."""
        key = event.method, event.link, event.ranks
        if key not in self.tasks:
            name = f"{event.method}, {event.link} x {event.ranks}"
            self.tasks[key] = self.progress.add_task(name, total=1.0, facts="")
        facts = f"{words.number(1e3 * event.seconds)} ms"
        self.progress.update(self.tasks[key], completed=event.done, facts=facts)


def _rates(asked: list[str]) -> tuple[tuple[str | None, ...], str]:
    """Return the usable rates, None for loopback, and a note if the kernel refuses shaped links."""
    wanted = [None if rate == LOOPBACK else rate for rate in asked]
    shaped = [rate for rate in wanted if rate is not None]
    for rate in shaped:
        net.parse_rate(rate)
    if shaped and link_of(shaped[0])[0] is None:
        return (None,), f"Measured over loopback: {net.refusal()}."
    return tuple(wanted), ""


def _check_output(output: Path) -> None:
    """Check before measuring that the page and its data can be written; ValueError if not."""
    if output.suffix != ".html":
        raise ValueError(f"the page's name ends in .html, got {str(output)!r}; its data goes beside it")
    check_folder(output, "the page")
    for file in _files(output):
        if file.is_dir():
            raise ValueError(f"{file} is a folder; the page and its data are files")
    try:
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise ValueError(f"nothing can be written to {output.parent}: {error.strerror}") from None


def _files(output: Path) -> tuple[Path, Path, Path]:
    return output, output.with_suffix(".json"), output.with_suffix(".csv")


def _measure_here(plan: bench.BenchPlan, output: Path, first: bool) -> None:
    """Measure as one rank; only the first rank prints and writes."""
    if not first:
        bench.run_here(plan)
        return
    with bars() as progress:
        sheet = bench.run_here(plan, Bars(progress).update, command())
    _finish(sheet, output)


def _finish(sheet: bench.Sheet, output: Path) -> None:
    """Write the page and its data, and print the tables."""
    for text, file in zip((page.render(sheet), sheet.to_json(), sheet.to_csv()), _files(output), strict=True):
        write_whole(text, file)
    for cell in sheet.cells().values():
        figures, names = table(sheet, cell)
        out.print(figures)
        for line in names:
            out.print(line, markup=False, highlight=False, soft_wrap=True)
    out.print(bench_words.headline(sheet), markup=False, soft_wrap=True)
    out.print(bench_words.measured_with(sheet.versions), markup=False)
    out.print(f"The page: {output.resolve()}", soft_wrap=True)
