"""The command line: `gradwire list`, `advise`, `bench`, `scale`, `train`, `demo` and `lab`."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Annotated

import gradwire
from gradwire import net
from gradwire.cli.console import complain
from gradwire.lab.failed import Failed

try:
    import typer
except ModuleNotFoundError as missing:
    sys.exit(f"the command line needs {missing.name}: pip install 'gradwire[cli]'")

from gradwire.cli.commands.advise import advise_command
from gradwire.cli.commands.bench import bench_command
from gradwire.cli.commands.lab import lab
from gradwire.cli.commands.parts import list_command
from gradwire.cli.commands.scale import scale_command
from gradwire.cli.commands.train import demo_command, train_command

SETTINGS = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, context_settings=SETTINGS)
app.command("advise")(advise_command)
app.command("bench")(bench_command)
app.command("scale")(scale_command)
app.command("demo")(demo_command)
app.command("train")(train_command)
app.command("list")(list_command)
app.add_typer(lab, name="lab")


def main() -> None:
    """Run the command line. Invalid input prints one sentence and exits with code 2."""
    try:
        app(prog_name="gradwire")
    except (ValueError, ArithmeticError, ModuleNotFoundError, FileNotFoundError, net.Refused) as error:
        complain(error)
        sys.exit(2)
    except Failed as error:
        complain(error)
        sys.exit(error.code)


def _print_version(asked: bool) -> None:
    """If asked, print the versions of gradwire, torch and Python, without importing torch, and exit."""
    if asked:
        typer.echo(
            f"gradwire {gradwire.__version__} (torch {metadata.version('torch')}, Python {platform.python_version()})"
        )
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take the bytes out of distributed training: compare, predict, measure, train."""
