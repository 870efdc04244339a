"""`gradwire lab run` and `gradwire lab figure`: convex problems, methods with their theory, figures."""

from __future__ import annotations

import json
import math
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import Progress
from rich.table import Table

from gradwire.cli.console import bars, out
from gradwire.cli.tasks import task_command
from gradwire.compress import Compressor
from gradwire.lab import descent, figures, link, methods, problems
from gradwire.spec import operator

lab = typer.Typer(no_args_is_help=True, help="Convex problems and real tasks: methods, theory, figures.")
lab.command("train")(task_command)

Option = Annotated[
    list[str] | None, typer.Option("--option", "-o", help="NAME=VALUE of the problem, such as -o penalty=0.1.")
]


@lab.command("run")
def run_command(
    problem: Annotated[str, typer.Argument(help=f"One of {', '.join(problems.PROBLEMS)}.")],
    method: Annotated[str, typer.Option(help=f"One of {', '.join(methods.METHODS)}.")] = "diana",
    compressor: Annotated[str, typer.Option(help="A spec such as randk, 'topk(density=0.1)' or natural.")] = "randk",
    density: Annotated[float | None, typer.Option(help="Of the compressor, if its spec does not say.")] = None,
    biased: Annotated[str | None, typer.Option(help="The biased operator of star and generalised_diana.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="At most.")] = 10_000,
    workers: Annotated[int | None, typer.Option(help="Left out: the problem's own number.")] = None,
    seed: Annotated[int, typer.Option(help="Of problem and compression.")] = 0,
    step: Annotated[float | None, typer.Option(help="Of gradient descent, instead of the theorem's.")] = None,
    conservative: Annotated[bool, typer.Option(help="Let theory use the largest L_i only.")] = False,
    until: Annotated[float, typer.Option(help="Stop at this error.")] = 1e-24,
    lockstep: Annotated[bool, typer.Option(help="One coroutine a worker: slow, and bit for bit a network's.")] = False,
    option: Option = None,
    output: Annotated[Path | None, typer.Option(help="A .json file for the run's marks.")] = None,
) -> None:
    """Minimise a problem by a method, with the step size that its theorem gives."""
    torch.set_num_threads(1)
    if output is not None and not output.parent.is_dir():
        raise ValueError(f"there is no folder {output.parent} to write {output.name} to")
    if output is not None and output.is_dir():
        raise ValueError(f"the run is written to a file, and {output} is a folder")
    task = problems.make(problem, workers=workers, seed=seed, **dict(_pair(text) for text in option or []))
    second = None if biased is None else _operator(biased, None)
    chosen = methods.compose(
        method, task, _operator(compressor, density), biased=second, step=step, conservative=conservative
    )
    out.print(_about(task, chosen))
    transport = "lockstep" if lockstep else "batched"
    with bars() as progress:
        trace = _follow(progress, method, task, chosen, rounds, seed, until, transport)
    last = trace.marks[-1]
    out.print(
        f"error {last.error:.3g} after {last.round:,} rounds and {last.bytes:,} bytes sent by a worker; "
        f"{last.round / trace.seconds:,.0f} rounds/s"
    )
    if output is not None:
        record = {
            "command": _command(),
            "versions": figures.versions(),
            "problem": repr(task),
            "method": repr(chosen),
            "marks": [asdict(mark) for mark in trace.marks],
        }
        output.write_text(json.dumps(record, indent=1) + "\n")
        out.print(f"The run: {output.resolve()}", soft_wrap=True)


@lab.command("figure")
def figure_command(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(figures.FIGURES)}, link, all.")],
    output: Annotated[Path, typer.Option(help="The folder for NAME.png, NAME.csv and NAME.json.")] = Path("figures"),
    seed: Annotated[int, typer.Option(help="Of problem and compression.")] = 0,
) -> None:
    """Run what a figure shows, draw it, and write its numbers beside it."""
    torch.set_num_threads(1)
    names = [*figures.FIGURES, "link"] if name == "all" else [name]
    for each in names:
        figures.check(each)
    if output.exists() and not output.is_dir():
        raise ValueError(f"a figure is written to a folder, and {output} is a file")
    output.mkdir(parents=True, exist_ok=True)
    for each in names:
        figure = _on_ranks(seed) if each == "link" else _in_process(figures.sheet(each, seed), seed)
        written = figures.write(figure, output, _command())
        picture = output / f"{each}.png"
        figures.draw(figure, picture)
        out.print(_table(figure))
        out.print(f"Written: {', '.join(str(path) for path in [picture, *written])}", soft_wrap=True)


def _in_process(sheet: figures.Sheet, seed: int) -> figures.Figure:
    """Run a sheet's tasks one after the other."""
    curves: list[figures.Curve] = []
    with bars() as progress:
        for task in sheet.tasks:
            name = f"{task.panel}: {task.label}"
            trace = _follow(progress, name, task.problem, task.method, task.rounds, seed, task.until, "batched")
            curves.append(figures.curve(task.panel, task.label, task.problem, trace))
    return figures.Figure(sheet.name, sheet.title, sheet.caption, tuple(curves))


def _on_ranks(seed: int) -> figures.Figure:
    """Run the tasks of the link figure on processes."""
    with bars() as progress:

        def start(name: str) -> link.Tell:
            task = progress.add_task(name, total=1.0, facts="starting")

            def tell(done: float, facts: str) -> None:
                progress.update(task, completed=done, facts=facts)

            return tell

        return link.figure(seed, start)


def _follow(
    progress: Progress,
    name: str,
    problem: problems.Problem,
    method: methods.Method,
    rounds: int,
    seed: int,
    until: float,
    transport: descent.Transport,
) -> descent.Trace:
    """Descend behind a progress bar."""
    bar = progress.add_task(name, total=1.0, facts="")

    def listen(mark: descent.Mark) -> None:
        progress.update(bar, completed=mark.round / rounds, facts=f"round {mark.round:>7,}  error {mark.error:.1e}")

    trace = descent.descend(problem, method, rounds, seed=seed, until=until, transport=transport, listen=listen)
    progress.update(bar, completed=1.0)
    return trace


def _operator(text: str, density: float | None) -> Compressor:
    """A compressor by spec; a bare name takes the density."""
    if text in ("randk", "topk") and density is None:
        raise ValueError(f"{text} needs a density: give --density 0.1, say, or the spec '{text}(density=0.1)'")
    if density is None:
        return operator(text)
    if "(" in text:
        raise ValueError(f"the density is given twice: in {text!r} and as {density}")
    return operator(f"{text}(density={density})")


def _pair(text: str) -> tuple[str, Any]:
    """NAME=VALUE, where VALUE is a number, none, or a word."""
    name, found, value = text.partition("=")
    if not found:
        raise ValueError(f"an option of a problem looks like penalty=0.1, got {text!r}")
    if name in ("name", "workers", "seed"):
        raise ValueError(f"{name} is not an option of a problem, got {text!r}; there are PROBLEM, --workers and --seed")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, None if value.lower() == "none" else value


def _about(problem: problems.Problem, method: methods.Method) -> str:
    """What is run, and what theory says of it."""
    lines = [
        f"{problem.name}: n = {problem.n}, d = {problem.d}, L = {problem.L:.4g}, "
        f"L_max = {problem.L_i.max().item():.4g}, mu = {problem.mu:.4g}",
        f"{method.exchange}",
    ]
    plan = method.plan
    if plan is None:
        return "\n".join([*lines, f"step {method.step:.4g}; no theorem covers this"])
    told = {name: getattr(plan, name) for name in ("alpha", "p", "eta", "gamma", "lam", "nu")}
    facts = ", ".join(f"{name} = {value:.4g}" for name, value in told.items() if value is not None)
    if method.step != plan.step:
        return "\n".join([*lines, f"step {method.step:.4g}, not the theorem's {plan.step:.4g}; {facts}"])
    promise = "" if plan.rate >= 1 else f"; at most {math.ceil(plan.rounds(0.1)):,} rounds for a digit"
    return "\n".join([*lines, f"{plan.theorem}: step {method.step:.4g}, {facts}{promise}"])


def _table(figure: figures.Figure) -> Table:
    """Every run beside its theorem."""
    columns = ("", "", "rounds to 1e-8", "kB to 1e-8", "ends at", "theory", "per round", "theory", "worst / bound")
    table = Table(*columns, title=figure.title, caption=figure.caption)
    panel = ""
    for line in figure.curves:
        facts = line.facts
        table.add_row(
            line.panel if line.panel != panel else "",
            line.label,
            "-" if facts.rounds is None else f"{facts.rounds:,}",
            "-" if facts.bytes is None else f"{facts.bytes / 1e3:,.0f}",
            f"{facts.plateau:.1e}",
            _number(facts.neighbourhood, ".1e"),
            _number(facts.contraction, ".6f"),
            _number(facts.rate, ".6f"),
            _number(facts.worst, ".3f"),
        )
        panel = line.panel
    return table


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _command() -> str:
    """The command line that this process was started with."""
    return shlex.join(["gradwire", *sys.argv[1:]])
