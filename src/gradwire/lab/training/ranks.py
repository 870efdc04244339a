"""Run a training on n ranks over a link, and listen to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gradwire.lab.comparison import execute as compare
from gradwire.lab.training.settings import Evaluation, Event, History, Step, Training


def train_on_ranks(
    training: Training,
    rate: str | None = None,
    listen: Callable[[Event], None] = lambda event: None,
    resume: Path | None = None,
    save: Path | None = None,
) -> History:
    """Train with a process for each worker, on links of `rate` or over loopback; else as `train`.

    Seconds are those of worker 0. Gradients are equal to those of one process; the sums of gloo are rounded in another
    order.

    Raises:
        gradwire.lab.comparison.execute.Failed: a rank refused its input or died; the message is its own.
        gradwire.net.Refused: the kernel does not give links.
    """
    steps: list[Step] = []
    evaluations: list[Evaluation] = []
    ends: list[dict[str, Any]] = []

    def note(told: dict[str, Any]) -> None:
        match told.pop("event"):
            case "step":
                steps.append(Step(**told))
                listen(steps[-1])
            case "evaluation":
                evaluations.append(Evaluation(**told))
                listen(evaluations[-1])
            case _:
                ends.append(told)

    places = {name: str(path.resolve()) if path else None for name, path in (("save", save), ("resume", resume))}
    order = json.dumps({"training": asdict(training), **places})
    name = f"the training of {training.task}"
    compare.follow(name, "gradwire.lab.training.on_ranks", order, training.workers, rate, note, last="end")
    return History(training.filled(), tuple(steps), tuple(evaluations), **ends[0])
