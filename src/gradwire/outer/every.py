"""How long rounds of local steps are: shorter ones at first, if wished."""

from __future__ import annotations

from dataclasses import dataclass

from gradwire.checks import is_whole


@dataclass(frozen=True)
class Every:
    """Rounds of `steps` local steps, after a warm-up in which they grow.

    Models move fastest at first, and workers that then meet more often stay closer together. The length of a round that
    begins after t local steps is start + (steps - start) * t / warmup_steps, rounded down, until t = warmup_steps.

    Args:
        steps: local steps of a round after the warm-up.
        warmup_steps: local steps of the warm-up; 0 for none.
        start: local steps of the first round.
    """

    steps: int
    warmup_steps: int = 0
    start: int = 1

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("warmup_steps", 0), ("start", 1)):
            value = getattr(self, name)
            if not is_whole(value) or value < least:
                raise ValueError(f"{name} of a round must be a whole number, at least {least}, got {value!r}")
        if self.start > self.steps:
            raise ValueError(f"rounds grow from start to steps, got start={self.start} above steps={self.steps}")

    def __call__(self, step: int) -> int:
        """Return the length of a round that begins after so many local steps."""
        if step >= self.warmup_steps:
            return self.steps
        return self.start + (self.steps - self.start) * step // self.warmup_steps

    def gap(self, event: int, fragments: int, step: int) -> int:
        """Return the local steps before exchange number `event`, if the one before it was after local step `step`.

        Exchange e is of fragment e modulo `fragments`; they cut a round into equal parts, whole steps each.
        """
        length, fragment = self(step), event % fragments
        return max(1, (fragment + 1) * length // fragments - fragment * length // fragments)
