"""Doors: they connect a model's tensors to the engine. No door's code depends on another's."""

from gradwire.doors.attach import attach
from gradwire.doors.attach_local import local
from gradwire.doors.hook import Hook
from gradwire.doors.local import Local

__all__ = ["Hook", "Local", "attach", "local"]
