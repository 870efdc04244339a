"""Exchanges: collective algorithms. Each obeys the law: all workers get one mean, the average of what each one said."""

from gradwire.exchange.cltk import CLTK
from gradwire.exchange.deft import DEFT
from gradwire.exchange.exdyna import ExDyna
from gradwire.exchange.gathered import Gathered
from gradwire.exchange.globaltopk import GlobalTopK
from gradwire.exchange.int8 import Int8AllReduce
from gradwire.exchange.mean import Mean
from gradwire.exchange.micro import MiCRO
from gradwire.exchange.oktopk import OkTopk
from gradwire.exchange.permk import PermK
from gradwire.exchange.powersgd import PowerSGD
from gradwire.exchange.protocol import Accumulates, Exchange, Selective, State, divide_budget, tensor
from gradwire.exchange.shared import SharedRandK
from gradwire.exchange.sidco import SIDCo
from gradwire.exchange.union import UnionTopK

__all__ = [
    "CLTK",
    "DEFT",
    "Accumulates",
    "ExDyna",
    "Exchange",
    "Gathered",
    "GlobalTopK",
    "Int8AllReduce",
    "Mean",
    "MiCRO",
    "OkTopk",
    "PermK",
    "PowerSGD",
    "SIDCo",
    "Selective",
    "SharedRandK",
    "State",
    "UnionTopK",
    "divide_budget",
    "tensor",
]
