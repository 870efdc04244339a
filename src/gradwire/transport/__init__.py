"""Transports run an algorithm's coroutines and answer their asks."""

from gradwire.transport.batched import ALL_ROWS, batched
from gradwire.transport.ledger import Ledger
from gradwire.transport.lockstep import Disagreement, lockstep

__all__ = ["ALL_ROWS", "Disagreement", "Ledger", "batched", "lockstep"]
