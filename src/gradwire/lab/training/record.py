"""The files of a run: steps.csv, run.json, and TensorBoard scalars if TensorBoard is installed."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from gradwire.lab import records
from gradwire.lab.training.settings import Event, History, Step

MISSING = "no scalars for TensorBoard, which is not installed: pip install 'gradwire[tensorboard]'"


def write(history: History, folder: Path, command: str) -> list[Path]:
    """Write steps.csv, one line a step, and run.json: settings, data, versions, command and evaluations."""
    table, record = folder / "steps.csv", folder / "run.json"
    with table.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow([field.name for field in fields(Step)])
        lines.writerows(asdict(step).values() for step in history.steps)
    metric, settings = history.training.make().metric, history.training.settings
    about: dict[str, Any] = {
        "command": command,
        "versions": records.versions(),
        "training": asdict(history.training),
        "optimizer": settings.optimizer
        if settings.optimizer == "sgd"
        else f"{settings.optimizer}, betas {settings.betas}",
        "data": history.source,
        "parameters": history.parameters,
        "evaluations": [asdict(evaluation) for evaluation in history.evaluations],
        "metric": metric,
        "final": history.final[metric],
    }
    record.write_text(json.dumps(about, indent=1) + "\n")
    return [table, record]


@contextmanager
def scalars(folder: Path) -> Generator[Callable[[Event], None] | None]:
    """Open a folder for TensorBoard and yield a listener for a run's events; None without TensorBoard."""
    if importlib.util.find_spec("tensorboard") is None:
        yield None
        return
    from torch.utils.tensorboard.writer import SummaryWriter  # here, because importing it takes a second

    with SummaryWriter(str(folder)) as writer:

        def listen(event: Event) -> None:
            step = event.step
            for name, value in _named(event).items():
                writer.add_scalar(name, value, step)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]

        yield listen


def _named(event: Event) -> dict[str, float]:
    """An event's numbers by TensorBoard tag."""
    if not isinstance(event, Step):
        return {f"held out/{name}": value for name, value in event.metrics.items()}
    return {f"step/{name}": value for name, value in asdict(event).items() if name != "step" and value is not None}
