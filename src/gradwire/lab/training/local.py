"""The settings of local steps: how long a round is, and what is done with its mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from gradwire.checks import is_whole
from gradwire.engine.anchored import CatchUp
from gradwire.lab.checks import check_count, check_name
from gradwire.outer.every import Every
from gradwire.spec import as_outer


@dataclass(frozen=True)
class LocalSteps:
    """Every worker takes optimizer steps of its own, and every so often their difference to the anchor is exchanged.

    every: steps of a round. outer: the spec of the outer step, which moves the anchor. delay: steps between sending a
    difference and receiving the mean. catch_up: what a worker does then with the steps that it has taken meanwhile:
    "add" keeps them, "mix" stops halfway between its own model and the anchor, "drop" forgets them. fragments: parts of
    the model that are exchanged at different steps of a round. grow: steps in which rounds grow from 1 to `every`.

    Raises:
        ValueError: a spec or number that cannot be, in one sentence.
    """

    every: int = 10
    outer: str = "sgd(lr=1.0, mean='senders')"
    delay: int = 0
    catch_up: CatchUp = "mix"
    fragments: int = 1
    grow: int = 0

    def __post_init__(self) -> None:
        check_count("every", self.every)
        Every(self.every, self.grow)
        as_outer(self.outer, "a run of local steps")
        check_count("fragments", self.fragments)
        check_name("catch-up", self.catch_up, get_args(CatchUp))
        if not is_whole(self.delay) or not 0 <= self.delay < self.every:
            raise ValueError(f"a delay lies within a round of {self.every} steps, got {self.delay!r}")
        if self.fragments > self.every:
            raise ValueError(f"{self.fragments} fragments do not fit into a round of {self.every} steps")

    @property
    def rounds(self) -> Every:
        """How long rounds are."""
        return Every(self.every, self.grow)
