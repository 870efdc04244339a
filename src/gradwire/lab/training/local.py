"""The settings of local steps: the length of a round, and how its mean is applied."""

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
    """Settings of local steps: workers step on their own, and at the end of a round exchange differences to the anchor.

    every: steps of a round. outer: the spec of the outer step, which moves the anchor. delay: steps between sending a
    difference and receiving the mean. catch_up: what a worker does with the steps it has taken meanwhile: "add" keeps
    them, "mix" moves halfway between its own model and the anchor, "drop" discards them. fragments: number of parts of
    the model, which are exchanged at different steps of a round. grow: steps in which rounds grow from 1 to `every`.

    Raises:
        ValueError: an invalid spec or number, in one sentence.
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
        """The lengths of rounds."""
        return Every(self.every, self.grow)
