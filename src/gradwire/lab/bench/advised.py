"""What advice has come to, and how it is asked for: on processes of this machine, or as one rank of a group."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch.distributed as dist

from gradwire.advice import Method, Verdict
from gradwire.lab.bench import HERE
from gradwire.lab.bench.advising import Question, answer
from gradwire.lab.comparison import execute as compare
from gradwire.lab.comparison.record import writable


@dataclass(frozen=True)
class Advised:
    """A verdict, and what it rests on.

    compute: seconds of a step without a network. alpha, beta: seconds a call and bytes a second, by kind of collective;
    beta is None where size made no difference. measured: seconds of a step, by method, if that was asked for.
    """

    model: str
    link: str
    ranks: int
    compute: float
    alpha: dict[str, float]
    beta: dict[str, float | None]
    verdict: Verdict
    measured: dict[str, float] = field(default_factory=dict[str, float])

    def error(self, method: Method) -> float | None:
        """Predicted over measured, less one; None where nothing was measured."""
        seconds = self.measured.get(method.name)
        return None if seconds is None else method.seconds / seconds - 1

    def to_json(self) -> str:
        """Strict JSON, with the sentence."""
        fields = asdict(self) | {"sentence": self.verdict.sentence}
        return json.dumps(writable(fields), indent=1, allow_nan=False) + "\n"


def ask(
    question: Question, ranks: int, rate: str | None, listen: Callable[[dict[str, Any]], None] = lambda event: None
) -> Advised:
    """Ask on `ranks` processes, on links of `rate` or over loopback; `listen` hears the events.

    Raises:
        gradwire.lab.comparison.execute.Failed: a rank refused its input (code 2) or died (1); the message is its own.
        gradwire.net.Refused: the kernel does not give links.
    """
    events: dict[str, dict[str, Any]] = {}

    def note(event: dict[str, Any]) -> None:
        listen(event)
        events[event["event"]] = event

    name = f"advice on {question.model}"
    compare.follow(name, "gradwire.lab.bench.advising", question.to_json(), ranks, rate, note, last="verdict")
    return _put_together(question, events, ranks, rate or "loopback")


def ask_here(question: Question, listen: Callable[[dict[str, Any]], None] = lambda event: None) -> Advised:
    """Ask on the ranks of the default group, which exists; every rank calls it, and gets the same.

    Raises:
        ValueError: a bad factory, spec or loss, in one sentence.
    """
    events: dict[str, dict[str, Any]] = {}

    def tell(event: str, **facts: object) -> None:
        events[event] = {"event": event, **facts}
        listen(events[event])

    answer(question, tell)
    return _put_together(question, events, dist.get_world_size(), HERE)


def _put_together(question: Question, events: dict[str, dict[str, Any]], ranks: int, link: str) -> Advised:
    found, said = events["link"], events["verdict"]
    verdict = Verdict(tuple(Method(**method) for method in said["methods"]), said["choice"])
    measured = events.get("measured", {}).get("seconds", {})
    return Advised(question.model, link, ranks, found["compute"], found["alpha"], found["beta"], verdict, measured)
