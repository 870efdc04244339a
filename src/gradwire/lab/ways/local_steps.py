"""Local steps as a method of `lab.ways`: `gradwire.local`, behind the counters of `ways.wrapped`. Names:

local   local(every=30)   local(every=10, exchange='ef(topk(density=0.05))', outer='sgd(lr=1.0)', delay=2)
"""

from __future__ import annotations

import ast
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim.optimizer import Optimizer

from gradwire import local
from gradwire.checks import is_whole
from gradwire.doors.attach_local import EXCHANGE, OUTER
from gradwire.spec import SpecError, as_exchange, as_outer


@dataclass(frozen=True)
class LocalWay:
    """Arguments of `gradwire.local`. `exchange` and `outer` have its defaults."""

    every: int = 10
    exchange: str = EXCHANGE
    outer: str = OUTER
    delay: int = 0

    def __post_init__(self) -> None:
        if not is_whole(self.every) or self.every < 1:
            raise SpecError(f"every must be a whole number of steps, at least 1, got {self.every!r}")
        if not is_whole(self.delay) or not 0 <= self.delay < self.every:
            raise SpecError(f"delay must be a whole number of steps from 0 to {self.every - 1}, got {self.delay!r}")
        as_exchange(self.exchange, "local")
        as_outer(self.outer, "local")


def local_steps(name: str) -> LocalWay | None:
    """Parse a name such as "local(every=10)"; None for the name of another method.

    Raises:
        SpecError: the arguments are invalid; the message says why in one sentence.
    """
    if not re.match(r"local\b", name):
        return None
    try:
        return LocalWay(**_arguments(name))
    except (SyntaxError, TypeError):
        raise SpecError(f"cannot read {name!r}: it should look like local(every=10)") from None


def _arguments(name: str) -> dict[str, Any]:
    """Parse the keyword arguments, all literals, of a call of `local`; SyntaxError or TypeError for anything else."""
    match ast.parse(name.strip(), mode="eval").body:
        case ast.Name(id="local"):
            return {}
        case ast.Call(func=ast.Name(id="local"), args=[], keywords=keywords):
            return {keyword.arg or "": _literal(keyword.value) for keyword in keywords}
        case _:
            raise SyntaxError(name)


def _literal(node: ast.expr) -> object:
    match node:
        case ast.Constant(value=value):
            return value
        case _:
            raise SyntaxError(ast.unparse(node))


class Apart:
    """A bare model trained with local steps: ranks train apart and exchange at the end of every round."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, steps: LocalWay, seed: int, **cap: Any) -> None:
        self.model, self.way, self.period = model, repr(steps), steps.every
        self.door = local(
            model, optimizer, steps.every, steps.exchange, steps.outer, delay=steps.delay, seed=seed, **cap
        )
        self.state_dict, self.load_state_dict, self.close = (
            self.door.state_dict,
            self.door.load_state_dict,
            self.door.close,
        )

    def averaging(self) -> AbstractContextManager[None]:
        """A null context: exchanges are triggered by the optimizer's steps."""
        return nullcontext()

    def quiet(self) -> AbstractContextManager[None]:
        """A null context: a backward pass sends nothing."""
        return nullcontext()

    def stepped(self) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """End the round, so that all ranks hold the same model."""
        self.door.finish()

    def sent(self) -> float:
        """The ledger's traffic."""
        return self.door.ledger.traffic

    def selecting(self) -> float:
        """The door's seconds minus the ledger's, which are spent in collectives."""
        return self.door.seconds - self.door.ledger.seconds

    def optimizing(self) -> float:
        """The door's seconds, all of them spent inside `optimizer.step`."""
        return self.door.seconds

    def collectives(self) -> list[float]:
        """Take the ledger's log since the last call."""
        taken, self.door.ledger.log = self.door.ledger.log or [], []
        return taken

    def choice(self) -> str:
        """The method's name with all arguments."""
        return self.way
