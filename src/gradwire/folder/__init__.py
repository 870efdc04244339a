"""A folder with the states of all ranks: every rank's own file, and a manifest that lists the files of one save."""

from gradwire.folder.load import load
from gradwire.folder.save import save

__all__ = ["load", "save"]
