"""The options of `gradwire lab run`, `train` and `figure`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# Copied from the laboratory, because importing it imports torch, which --help does not need. A test compares.
PROBLEMS = "One of ridge, a9a, breast_cancer, libsvm, quadratic."
METHODS = (
    "One of gd, dcgd, fixed, star, diana, generalised_diana, rand_diana, gdci, vr_gdci, ef14, ef21, ef_bv, "
    "marina, dasha, ef21_sgdm, locodl."
)
TASKS = "One of vision, language, recommendation."
FIGURES = (
    "One of ridge-table, randk, dithering, rand-diana, gdci, induced, logistic, locodl, link, deft-example, "
    "deft-scaling, deft-density, deft-tasks, deft-tasks-adamw, deft-selection, deft-breakdown, local-methods, "
    "local-outer, local-workers, local-unlike-data, local-delay, all."
)
OUTER = "sgd(lr=1.0, mean='senders')"

lab = typer.Typer(no_args_is_help=True, help="Convex problems and real tasks: methods, theory, figures.")

Option = Annotated[
    list[str] | None, typer.Option("--option", "-o", help="NAME=VALUE of the problem, such as -o penalty=0.1.")
]


@lab.command("run")
def run_command(
    problem: Annotated[str, typer.Argument(help=PROBLEMS)],
    method: Annotated[str, typer.Option(help=METHODS)] = "diana",
    compressor: Annotated[str, typer.Option(help="A spec such as randk, 'topk(density=0.1)' or natural.")] = "randk",
    density: Annotated[float | None, typer.Option(help="The compressor's, if its spec has none.")] = None,
    biased: Annotated[str | None, typer.Option(help="The biased operator of star and generalised_diana.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Largest number of rounds.")] = 10_000,
    workers: Annotated[int | None, typer.Option(help="Left out: the problem's own number.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of problem and compression.")] = 0,
    step: Annotated[float | None, typer.Option(help="Step size, instead of the theorem's.")] = None,
    conservative: Annotated[bool, typer.Option(help="Use only the largest L_i in the theory.")] = False,
    until: Annotated[float, typer.Option(help="Stop at this error.")] = 1e-24,
    lockstep: Annotated[bool, typer.Option(help="One coroutine a worker: slow, and bit for bit a network's.")] = False,
    option: Option = None,
    output: Annotated[Path | None, typer.Option(help="A .json file for the run's measured points.")] = None,
) -> None:
    """Minimise a problem by a method, with the step size that its theorem gives."""
    from gradwire.cli.descend import minimise

    minimise(
        problem,
        method,
        compressor,
        density,
        biased,
        rounds,
        workers,
        seed,
        step,
        conservative,
        until,
        lockstep,
        option,
        output,
    )


@lab.command("train")
def task_command(
    task: Annotated[str, typer.Option(help=TASKS)],
    exchange: Annotated[str, typer.Option(help="A spec such as 'ef(deft(density=0.01))', or dense.")] = "dense",
    workers: Annotated[int | None, typer.Option(help="Workers in one process, in lockstep. Left out: 16.")] = None,
    model: Annotated[str | None, typer.Option(help="One of the task's models. Left out: its smallest.")] = None,
    steps: Annotated[int | None, typer.Option(help="Left out, like the options below: the task's own.")] = None,
    batch: Annotated[int | None, typer.Option(help="Samples of one worker in one step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum of SGD.")] = None,
    clip: Annotated[
        float | None, typer.Option(help="Largest norm of a worker's gradient before compression; 0: no limit.")
    ] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="Steps between two evaluations.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd, adam, adamw or muon.")] = None,
    schedule: Annotated[str | None, typer.Option(help="Learning rate: constant or cosine.")] = None,
    warmup_steps: Annotated[int | None, typer.Option(help="Steps in which the learning rate rises.")] = None,
    local: Annotated[int | None, typer.Option(help="Local steps between two exchanges of models' differences.")] = None,
    outer: Annotated[str | None, typer.Option(help=f"With --local: spec of the outer step; {OUTER}.")] = None,
    delay: Annotated[int | None, typer.Option(help="With --local: steps until the mean arrives; 0.")] = None,
    catch_up: Annotated[str | None, typer.Option(help="With --delay: add, mix or drop; mix.")] = None,
    fragments: Annotated[
        int | None, typer.Option(help="With --local: parts of the model exchanged at different steps; 1.")
    ] = None,
    grow: Annotated[int | None, typer.Option(help="With --local: first steps, in which rounds grow from 1; 0.")] = None,
    unlike: Annotated[bool, typer.Option("--unlike", help="Workers have unlike data (non-IID).")] = False,
    seed: Annotated[int, typer.Option(help="Seed of model, data and compression.")] = 0,
    data: Annotated[Path | None, typer.Option(help="Path to read instead of the installed data.")] = None,
    ranks: Annotated[int | None, typer.Option(help="Processes, each one worker, instead of --workers.")] = None,
    rate: Annotated[
        str | None, typer.Option(help="Bandwidth of the ranks' links, such as 100mbit. Left out: loopback.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="A folder for steps.csv, run.json and TensorBoard.")] = None,
    save: Annotated[Path | None, typer.Option(help="A file to write a checkpoint to, at every evaluation.")] = None,
    resume: Annotated[Path | None, typer.Option(help="A checkpoint to continue from.")] = None,
) -> None:
    """Train a real task with n workers, and record loss, density, residual, bytes and time of every step."""
    from gradwire.cli.tasks import learn

    learn(
        task,
        exchange,
        workers,
        model,
        steps,
        batch,
        lr,
        momentum,
        clip,
        evaluate_every,
        optimizer,
        schedule,
        warmup_steps,
        local,
        outer,
        delay,
        catch_up,
        fragments,
        grow,
        unlike,
        seed,
        data,
        ranks,
        rate,
        output,
        save,
        resume,
    )


@lab.command("figure")
def figure_command(
    name: Annotated[str, typer.Argument(help=FIGURES)],
    output: Annotated[Path, typer.Option(help="The folder for NAME.png, NAME.csv and NAME.json.")] = Path("figures"),
    seed: Annotated[int, typer.Option(help="Seed of problem and compression.")] = 0,
) -> None:
    """Run the experiments of a figure, draw it, and write its numbers beside it."""
    from gradwire.cli.figures import make

    make(name, output, seed)
