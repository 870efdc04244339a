"""Transports run an algorithm's coroutines and answer their asks."""

from gradwire.transport.batched import EVERYBODY, batched
from gradwire.transport.ledger import Ledger
from gradwire.transport.lockstep import Disagreement, lockstep

__all__ = ["EVERYBODY", "Disagreement", "Ledger", "batched", "lockstep"]
