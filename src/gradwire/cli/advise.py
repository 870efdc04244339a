"""`gradwire advise`: predict, without training, whether compression saves time for this model on this link."""

from __future__ import annotations

import math
import os
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from gradwire import advice
from gradwire.advice.losses import check_optimizer, in_words
from gradwire.advice.rounds import EXCHANGE
from gradwire.cli.console import bars, check_folder, complain, link_of, numbered, out
from gradwire.lab import bench
from gradwire.lab.bench.advised import Advised, Probed, Question
from gradwire.lab.bench.advising import answer, ask
from gradwire.lab.remote import ignore
from gradwire.report import bench_words
from gradwire.report.whole import write_whole

LOCAL_NOTE = "This predicts time, not the loss that local steps reach: for that see docs/local.md."
"""A caveat printed below the prediction for local steps."""

LOSS_NOTE = "Assumed: the ratio of steps to dense's is the same on your model as there. Other methods are not ranked."
"""The assumption behind the times to a loss."""

NOTE = "Fewer bytes a step may take more steps: below a density of 1 % many models learn more slowly."
"""The table's caption: a caveat about comparing methods by the time of a step alone."""


def predict(
    model: str,
    candidate: list[str] | None,
    rate: str | None,
    ranks: int,
    bucket_mb: float,
    door: str,
    island: int,
    inside: str | None,
    check: bool,
    seconds: float,
    optimizer: str | None,
    output: Path | None,
) -> None:
    """Run `gradwire advise`: predict, print and write the result. The arguments are the command's options.

    Raises:
        ValueError: an option is invalid, the output's folder does not exist, or --rate is given under torchrun.
    """
    given = tuple(candidate) if candidate else advice.CANDIDATES
    if optimizer is not None:
        check_optimizer(optimizer)
    question = Question(model, given, bucket_mb, check, seconds=seconds, door=door, island=island, inside=inside)
    if output is not None:
        check_folder(output, "the answer")
    if "WORLD_SIZE" in os.environ:
        if rate is not None:
            raise ValueError(f"under torchrun the network is used as it is: leave out --rate {rate}")
        bench.live_here(lambda first: _here(question, optimizer, output, first), complain)
    found, _ = link_of(rate)
    with bars() as progress:
        task = progress.add_task("asking", total=None, facts="a few steps without a network")
        advised = ask(question, ranks, found, lambda event: progress.update(task, facts=_facts(event)))
        progress.update(task, facts="done")
    _finish(advised, optimizer, output)


def table(advised: Advised) -> tuple[Table, list[str]]:
    """Make the table, a row for every method, the fastest first, and the lines below it.

    The lines hold names too long for a row and the reasons why methods could not be predicted.
    """
    islands = "" if advised.island == 1 else f" in islands of {advised.island}"
    place = f"{advised.model}, {advised.ranks} ranks{islands}, {advised.link}"
    found = Table(
        title=f"{place}: {1e3 * advised.compute:.1f} ms of compute",
        caption=NOTE,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    found.add_column("method", no_wrap=True)
    columns = (
        "predicted ms",
        "x dense",
        "MB a step",
        "pays below",
        *(("measured ms", "error") * bool(advised.measured)),
    )
    for column in columns:
        found.add_column(column, justify="right", no_wrap=True)
    rows = [(method.seconds, _row(advised, method)) for method in advised.verdict.methods]
    rows += [(_seconds(one), _local_row(advised, one)) for one in advised.rounds]
    rows.sort(key=lambda row: row[0])
    names, below = numbered([row[0] for _, row in rows], 15 if advised.measured else 36)
    for name, (_, row) in zip(names, rows, strict=True):
        found.add_row(escape(name), *row[1:])
    refused = [(method.name, method.refusal) for method in advised.verdict.methods if method.refusal]
    refused += [(_local_name(one), one.refusal) for one in advised.rounds if one.refusal]
    return found, [*below, *(f"{name}: {refusal}" for name, refusal in refused)]


def door_lines(advised: Advised) -> list[str]:
    """Explain what the chosen door changes; no lines for DDP's."""
    if advised.door == "module":
        return ["The model is not wrapped: candidates are predicted for attach(model, ...), dense and fp16 for DDP."]
    if advised.door == "sharded":
        return [
            f"FSDP2's own gathering and reducing: {advised.own_traffic / 1e6:.3g} MB a step inside an island, "
            f"{1e3 * advised.own_seconds:.3g} ms beside computing. dense is native HSDP's mean of shards between the "
            "islands."
        ]
    return []


def _seconds(one: advice.LocalRound) -> float:
    return math.inf if one.refusal else one.seconds(one.every)


def _local_row(advised: Advised, one: advice.LocalRound) -> list[str]:
    """Make the row for local steps; the seconds and bytes of the exchange are divided by the steps of a round."""
    if one.refusal:
        return [_local_name(one), "-"]
    ratio = one.seconds(one.every) / advised.verdict.of("dense").seconds
    return [
        _local_name(one),
        f"{1e3 * one.seconds(one.every):.1f}",
        f"{ratio:.3f}",
        f"{one.traffic / one.every / 1e6:.3f}",
        "-",
    ]


def _local_name(one: advice.LocalRound) -> str:
    return f"local: {one.exchange}" if one.refusal else f"local, every {one.every}: {one.exchange}"


def local_lines(one: advice.LocalRound, dense: float, door: str = "ddp") -> list[str]:
    """Describe predicted local steps and the two lines of code that enable them.

    `dense` is the predicted seconds of a dense step, for comparison.
    """
    argument = "" if one.exchange == EXCHANGE else f', exchange="{one.exchange}"'
    if door == "sharded":
        argument += ', group=mesh["replicate"]'
    model = "sharded by FSDP2" if door == "sharded" else "the bare module"
    return [
        f"or take local steps: an exchange of {one.traffic / 1e6:.3g} MB and {1e3 * one.wire:.3g} ms of wire every "
        f"{one.every} steps, {100 * one.wire_fraction(one.every):.2g} % of a round; "
        f"{1e3 * one.seconds(one.every):.4g} ms a step against {1e3 * dense:.4g} ms dense",
        "    import gradwire",
        f"    local = gradwire.local(model, optimizer, every={one.every}{argument})    # model is {model}",
        LOCAL_NOTE,
    ]


def loss_lines(advised: Advised, optimizer: str) -> list[str]:
    """Rank methods by their time to a loss under an optimizer, and name the runs the step counts come from."""
    ways = advised.to_loss(optimizer)
    dense = next(way for way in ways if way.way == "dense")
    found = [f"by time to a loss under {optimizer}, where the steps to it have been measured:"]
    for way in ways:
        if way is dense:
            found.append(f"    dense: {1e3 * way.seconds:.4g} ms a step")
        elif math.isinf(way.ratio):
            limit = max(row.limit / row.dense for row in way.rows)
            found.append(
                f"    {way.way}: does not come to dense's loss in {limit:.3g} times its steps ({in_words(way.rows)})"
            )
        else:
            found.append(
                f"    {way.way}: {way.to_loss / dense.to_loss:.3g} of dense's time, {way.ratio:.3g} times its steps, "
                f"each of {1e3 * way.seconds:.4g} ms ({in_words(way.rows)})"
            )
    return [*found, LOSS_NOTE]


def _row(advised: Advised, method: advice.Method) -> list[str]:
    if method.refusal:
        return [method.name, "-"]
    dense = advised.verdict.of("dense").seconds
    cells = [
        method.name,
        f"{1e3 * method.seconds:.1f}",
        f"{method.seconds / dense:.3f}",
        f"{method.traffic / 1e6:.3f}",
        rate_of(method.crossover),
    ]
    error = advised.error(method)
    return cells if error is None else [*cells, f"{1e3 * advised.measured[method.name]:.1f}", f"{100 * error:+.1f} %"]


def rate_of(crossover: float | None) -> str:
    """Format a crossover bandwidth, given in bytes a second, as Mbit/s or Gbit/s, or as "-", "never" or "any rate"."""
    if crossover is None:
        return "-"
    if crossover == 0.0:
        return "never"
    if math.isinf(crossover):
        return "any rate"
    megabits = 8 * crossover / 1e6
    return f"{megabits / 1e3:.3g} Gbit/s" if megabits >= 1e3 else f"{megabits:.3g} Mbit/s"


def _facts(event: Probed | bench.Progress) -> str:
    """Describe an event for the progress bar."""
    if isinstance(event, Probed):
        return f"{1e3 * event.compute:.1f} ms of compute; rehearsing"
    return f"measuring {event.method}"


def _here(question: Question, optimizer: str | None, output: Path | None, first: bool) -> None:
    """Answer as one rank of a torchrun job; only the first rank prints and writes."""
    advised = answer(question, ignore)
    if first:
        _finish(advised, optimizer, output)


def _finish(advised: Advised, optimizer: str | None, output: Path | None) -> None:
    """Print the prediction and, if `output` is given, write it as JSON."""
    figures, lines = table(advised)
    out.print(figures)
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    for line in door_lines(advised):
        out.print(line, markup=False, soft_wrap=True)
    out.print(advised.verdict.sentence, markup=False, soft_wrap=True)
    out.print(bench_words.measured_with(advised.versions), markup=False)
    for line in loss_lines(advised, optimizer) if optimizer is not None else ():
        out.print(line, markup=False, soft_wrap=True)
    if (one := advised.local) is not None:
        for line in local_lines(one, advised.verdict.of("dense").seconds, advised.door):
            out.print(line, markup=False, soft_wrap=True)
    if output is not None:
        write_whole(advised.to_json(), output)
        out.print(f"The figures: {output.resolve()}", soft_wrap=True)
