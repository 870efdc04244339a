"""Exchanges: collective algorithms. Each obeys the law: all workers get one mean, the average of what each one said."""

from gradwire.exchange.deft import Deft
from gradwire.exchange.gathered import Gathered
from gradwire.exchange.mean import Mean
from gradwire.exchange.permk import PermK
from gradwire.exchange.powersgd import PowerSGD
from gradwire.exchange.protocol import Exchange, State
from gradwire.exchange.shared import SharedRandK

__all__ = ["Deft", "Exchange", "Gathered", "Mean", "PermK", "PowerSGD", "SharedRandK", "State"]
