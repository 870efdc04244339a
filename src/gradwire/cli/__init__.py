"""The command line: `gradwire bench`, `demo`, `train`, `list` and `lab`."""

from __future__ import annotations

import sys

from gradwire import net
from gradwire.cli.console import complain
from gradwire.lab import remote

try:
    import typer
except ModuleNotFoundError as missing:
    sys.exit(f"the command line needs {missing.name}: pip install 'gradwire[cli]'")

from gradwire.cli.advise import advise_command
from gradwire.cli.bench import bench_command
from gradwire.cli.lab import lab
from gradwire.cli.parts import list_command
from gradwire.cli.train import demo_command, train_command

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.command("advise")(advise_command)
app.command("bench")(bench_command)
app.command("demo")(demo_command)
app.command("train")(train_command)
app.command("list")(list_command)
app.add_typer(lab, name="lab")


def main() -> None:
    """Run the command line; bad input ends in one sentence and exit code 2."""
    try:
        app()
    except (ValueError, ArithmeticError, ModuleNotFoundError, FileNotFoundError, net.Refused) as error:
        complain(error)
        sys.exit(2)
    except remote.Failed as error:
        complain(error)
        sys.exit(error.code)
