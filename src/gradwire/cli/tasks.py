"""`gradwire lab train`: train a real task with n workers, in one process or on real ranks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from rich.table import Table

from gradwire.cli.console import bars, command, err, link_of, out
from gradwire.lab.training import Event, History, LocalSteps, Step, Training, train, train_on_ranks
from gradwire.lab.training.record import MISSING, scalars, write
from gradwire.lab.training.tasks.protocol import Optimizer, RateSchedule


def learn(
    task: str,
    exchange: str,
    workers: int | None,
    model: str | None,
    steps: int | None,
    batch: int | None,
    lr: float | None,
    momentum: float | None,
    clip: float | None,
    evaluate_every: int | None,
    optimizer: str | None,
    schedule: str | None,
    warmup_steps: int | None,
    local: int | None,
    outer: str | None,
    delay: int | None,
    catch_up: str | None,
    fragments: int | None,
    grow: int | None,
    unlike: bool,
    seed: int,
    data: Path | None,
    ranks: int | None,
    rate: str | None,
    output: Path | None,
    save: Path | None,
    resume: Path | None,
) -> None:
    """Run `gradwire lab train`: train, print and write the history. The arguments are the command's options."""
    if ranks is not None and workers not in (None, ranks):
        raise ValueError(f"every rank is one worker: give --ranks {ranks} or --workers {workers}, not both")
    if rate is not None and ranks is None:
        raise ValueError(f"a link of {rate} needs processes; say how many with --ranks")
    training = Training(
        task,
        exchange,
        workers=ranks if ranks is not None else Training.workers if workers is None else workers,
        steps=steps,
        seed=seed,
        model=model,
        batch=batch,
        learning_rate=lr,
        momentum=momentum,
        clip=clip,
        evaluate_every=evaluate_every,
        data=None if data is None else str(data.resolve()),
        optimizer=cast(Optimizer, optimizer),
        schedule=cast(RateSchedule, schedule),
        warmup_steps=warmup_steps,
        local=_local(
            local, {"outer": outer, "delay": delay, "catch_up": catch_up, "fragments": fragments, "grow": grow}
        ),
        unlike=unlike,
    )
    for part in () if output is None else (output, *output.parents):
        if part.exists() and not part.is_dir():
            raise ValueError(f"a run is written to a folder, and {part} is a file")
    place = _place(ranks, rate)
    out.print(f"{task}, {exchange}, {training.workers} workers {place[1]}", markup=False)
    with ExitStack() as stack:
        listeners = [_progress(stack, training)]
        history = _run(training, ranks, place[0], listeners, output, stack, resume, save)
    _summarise(history)
    if output is not None:
        written = write(history, output, command())
        out.print(f"Written: {', '.join(str(path) for path in written)}", soft_wrap=True)


def _local(every: int | None, given: dict[str, Any]) -> LocalSteps | None:
    """The settings of local steps, or None without --local; ValueError if only their other options are given."""
    chosen = {name: value for name, value in given.items() if value is not None}
    if every is not None:
        return LocalSteps(every, **chosen)
    for name, value in chosen.items():
        raise ValueError(f"--{name.replace('_', '-')} {value} belongs to local steps; say how many with --local")
    return None


def _place(ranks: int | None, rate: str | None) -> tuple[str | None, str]:
    """Return the usable rate and where the workers run; warn if the kernel refuses shaped links."""
    if ranks is None:
        return None, "in one process"
    had, link = link_of(rate)
    return had, f"on ranks, {link if had else 'loopback'}"


Listener = Callable[[Event], None]


def _run(
    training: Training,
    ranks: int | None,
    rate: str | None,
    listeners: list[Listener],
    output: Path | None,
    stack: ExitStack,
    resume: Path | None,
    save: Path | None,
) -> History:
    """Train and call all listeners with every event; with an output folder, TensorBoard's writer becomes one."""

    def listen(event: Event) -> None:
        if output is not None and len(listeners) == 1:  # at the first event, so a refused run creates no folder
            output.mkdir(parents=True, exist_ok=True)
            write_scalars = stack.enter_context(scalars(output))
            if write_scalars is None:
                err.print(f"gradwire: {MISSING}", style="yellow", markup=False)
            listeners.append(write_scalars or _ignore)
        for listener in listeners:
            listener(event)

    if ranks is not None:
        return train_on_ranks(training, rate, listen, resume, save)
    torch.set_num_threads(1)
    return train(training, listen, resume, save)


def _ignore(event: Event) -> None:
    """Do nothing with an event."""


def _progress(stack: ExitStack, training: Training) -> Listener:
    """Open a progress bar that shows the latest loss and evaluation, and return its listener."""
    progress = stack.enter_context(bars())
    metric, steps = training.make().metric, training.settings.steps
    bar = progress.add_task(training.task, total=steps, facts="starting")
    facts = {"loss": "", "metric": ""}

    def listen(event: Event) -> None:
        if isinstance(event, Step):
            facts["loss"] = f"loss {event.loss:.3f}  density {event.density:.4f}"
        else:
            facts["metric"] = f"{metric} {event.metrics[metric]:.4g}"
        progress.update(bar, completed=event.step, facts=f"step {event.step:>5}  {facts['loss']}  {facts['metric']}")

    return listen


def _summarise(history: History) -> None:
    """Print a summary of the run."""
    training, steps = history.training, history.steps
    out.print(f"{training.model}, {history.parameters:,} parameters; {history.source}", markup=False, soft_wrap=True)
    table = Table("step", "epoch", "seconds", *history.final)
    for evaluation in history.evaluations:
        numbers = (f"{value:.4f}" for value in evaluation.metrics.values())
        table.add_row(str(evaluation.step), f"{evaluation.epoch:.2f}", f"{evaluation.seconds:.1f}", *numbers)
    out.print(table)
    if steps:
        parts = [("gradients", "gradient_seconds"), ("exchange", "exchange_seconds"), ("update", "update_seconds")]
        times = ", ".join(f"{name} {1e3 * _mean(steps, part):.1f} ms" for name, part in parts)
        residual = "" if steps[-1].residual is None else f"; residual {steps[-1].residual:.3g}"
        out.print(
            f"a step: density {_mean(steps, 'density'):.5f}, {_mean(steps, 'bytes'):,.0f} bytes a worker, "
            f"{times}{residual}",
            soft_wrap=True,
        )


def _mean(steps: tuple[Step, ...], name: str) -> float:
    return sum(getattr(step, name) for step in steps) / len(steps)
