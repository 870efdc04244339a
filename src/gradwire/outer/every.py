"""The length of rounds of local steps, which may start short and grow."""

from __future__ import annotations

from dataclasses import dataclass

from gradwire.checks import is_whole


@dataclass(frozen=True)
class Every:
    """Rounds of `steps` local steps, after a warm-up in which they grow.

    Models move fastest at first, and frequent exchanges keep the workers close together then. A round that begins after
    t < warmup_steps local steps has start + (steps - start) * t / warmup_steps of them, rounded down.

    Args:
        steps: local steps of a round after the warm-up.
        warmup_steps: local steps of the warm-up; 0 for no warm-up.
        start: local steps of the first round, if there is a warm-up.

    Raises:
        ValueError: a number is not a whole number or too small, or `start` is above `steps`.
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
        """Return the length of a round that begins after `step` local steps."""
        if step >= self.warmup_steps:
            return self.steps
        return self.start + (self.steps - self.start) * step // self.warmup_steps

    def gap(self, event: int, fragments: int, step: int) -> int:
        """Return the local steps from an exchange after local step `step` to the next one, number `event`.

        Exchange e is of fragment e modulo `fragments`. The exchanges divide a round into equal parts, up to rounding to
        whole steps; each part has at least one.
        """
        length, fragment = self(step), event % fragments
        return max(1, (fragment + 1) * length // fragments - fragment * length // fragments)
