"""`gradwire lab`: convex problems and real tasks in one process or on real ranks, and their figures."""

from __future__ import annotations

import typer

from gradwire.cli.descend import run_command
from gradwire.cli.figures import figure_command
from gradwire.cli.tasks import task_command

lab = typer.Typer(no_args_is_help=True, help="Convex problems and real tasks: methods, theory, figures.")
lab.command("run")(run_command)
lab.command("train")(task_command)
lab.command("figure")(figure_command)
