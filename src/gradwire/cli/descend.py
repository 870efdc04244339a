"""`gradwire lab run`: minimise a convex problem by a method, with the constants of its theory."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from gradwire.cli.console import bars, check_folder, command, out
from gradwire.compress import Compressor
from gradwire.lab import records
from gradwire.lab.convex import descent, methods, problems
from gradwire.spec import operator


def minimise(
    problem: str,
    method: str,
    compressor: str,
    density: float | None,
    biased: str | None,
    rounds: int,
    workers: int | None,
    seed: int,
    step: float | None,
    conservative: bool,
    until: float,
    lockstep: bool,
    option: list[str] | None,
    output: Path | None,
) -> None:
    """Run `gradwire lab run`: descend, print and write the trace. The arguments are the command's options."""
    torch.set_num_threads(1)
    if output is not None:
        check_folder(output, output.name)
        if output.is_dir():
            raise ValueError(f"the run is written to a file, and {output} is a folder")
    task = problems.make(problem, workers=workers, seed=seed, **dict(_pair(text) for text in option or []))
    second = None if biased is None else _operator(biased, None)
    chosen = methods.compose(
        method, task, _operator(compressor, density), biased=second, step=step, conservative=conservative
    )
    out.print(_about(task, chosen))
    transport = "lockstep" if lockstep else "batched"
    with bars() as progress:
        trace = follow(progress, method, task, chosen, rounds, seed, until, transport)
    last = trace.marks[-1]
    out.print(
        f"error {last.error:.3g} after {last.round:,} rounds and {last.bytes:,} bytes sent by a worker; "
        f"{last.round / trace.seconds:,.0f} rounds/s"
    )
    if output is not None:
        record = {
            "command": command(),
            "versions": records.versions(),
            "problem": repr(task),
            "method": repr(chosen),
            "marks": [asdict(mark) for mark in trace.marks],
        }
        output.write_text(json.dumps(record, indent=1) + "\n")
        out.print(f"The run: {output.resolve()}", soft_wrap=True)


def follow(
    progress: Progress,
    name: str,
    problem: problems.Problem,
    method: methods.ConvexMethod,
    rounds: int,
    seed: int,
    until: float,
    transport: descent.Transport,
) -> descent.Trace:
    """Run a descent and show its progress in a bar."""
    bar = progress.add_task(name, total=1.0, facts="")

    def listen(mark: descent.Mark) -> None:
        progress.update(bar, completed=mark.round / rounds, facts=f"round {mark.round:>7,}  error {mark.error:.1e}")

    trace = descent.descend(problem, method, rounds, seed=seed, until=until, transport=transport, listen=listen)
    progress.update(bar, completed=1.0)
    return trace


def _operator(text: str, density: float | None) -> Compressor:
    """Build a compressor from a spec, or from a bare name and a density.

    Raises:
        ValueError: the density is missing, or given twice.
    """
    if text in ("randk", "topk") and density is None:
        raise ValueError(f"{text} needs a density: give --density 0.1, say, or the spec '{text}(density=0.1)'")
    if density is None:
        return operator(text)
    if "(" in text:
        raise ValueError(f"the density is given twice: in {text!r} and as {density}")
    return operator(f"{text}(density={density})")


def _pair(text: str) -> tuple[str, Any]:
    """Parse NAME=VALUE, where VALUE is a number, none, or a word; ValueError for any other text."""
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


def _about(problem: problems.Problem, method: methods.ConvexMethod) -> str:
    """Describe the problem, the method, and the rate that theory guarantees."""
    lines = [
        f"{problem.name}: n = {problem.n}, d = {problem.d}, L = {problem.L:.4g}, "
        f"L_max = {problem.L_i.max().item():.4g}, mu = {problem.mu:.4g}",
        f"{method.exchange}",
    ]
    plan = method.plan
    if plan is None:
        return "\n".join([*lines, f"step {method.step:.4g}; no theorem covers this"])
    known = {name: getattr(plan, name) for name in ("alpha", "p", "eta", "gamma", "lam", "nu")}
    facts = ", ".join(f"{name} = {value:.4g}" for name, value in known.items() if value is not None)
    if method.step != plan.step:
        return "\n".join([*lines, f"step {method.step:.4g}, not the theorem's {plan.step:.4g}; {facts}"])
    promise = "" if plan.rate >= 1 else f"; at most {math.ceil(plan.rounds(0.1)):,} rounds for a digit"
    return "\n".join([*lines, f"{plan.theorem}: step {method.step:.4g}, {facts}{promise}"])
