"""A batched round, recorded: the calls of torch that it makes, one after the other, without the layers that made them.

A round of a small problem spends as long between its calls as in them: coroutines, turns, vectors, the ledger. None of
that changes from round to round. So one round is recorded, as a torch.fx graph, and the graph is run for the others:
the same calls with the same arguments in the same order, so results are equal bit for bit.

What a recording must not hide is refused, and such rounds are run as they are:
  - calls whose result or whose shape depends on values, or that leave torch (`numpy`, `item`, a comparison in an `if`);
  - whatever looks at the step, by which a turn that stands for every step raises `StepDependent` (layout.py), except
    draws, which the recording asks for again at every step;
  - whatever else differs between two rounds in a row: two recordings must be one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode

from gradwire.layout import AnyStep, Draws, Turn

DRAWN_AHEAD = 1 << 6
"""Steps whose draws are asked for at once."""

_VIEWS = "view unsqueeze squeeze expand expand_as transpose __getitem__"
_NEW = "add sub mul div neg abs square sqrt sigmoid maximum minimum clamp"
_OTHERS = "mean amax gather index_select to double float clone reshape flatten new_zeros"
_IN_PLACE = "add_ sub_ mul_ div_ sigmoid_ lerp_ scatter_add_ copy_ zero_"
_FUNCTIONS = "zeros zeros_like empty empty_like where cat stack"
_FACTS = "shape ndim dtype device is_cuda is_cpu itemsize nbytes"


def _called(owner: Any, names: str) -> frozenset[Any]:
    return frozenset(getattr(owner, name) for name in names.split())


VIEWS = _called(Tensor, _VIEWS)
"""Calls whose result is the same memory: of a tensor that stays, it is made once."""

INTO = {*_NEW.split(), "addmv", "baddbmm"}
"""Names of calls that make a new tensor, and may write into an old one instead."""

METHODS = VIEWS | _called(Tensor, f"{_NEW} sum {_OTHERS} {_IN_PLACE}")
CALLS = METHODS | _called(torch, f"add sub mul div maximum minimum addmv baddbmm {_FUNCTIONS}")
"""Calls whose result has a shape that follows from shapes: what may be recorded."""

FACTS = frozenset[Any](
    [getattr(Tensor, name).__get__ for name in _FACTS.split()]
    + [Tensor.numel, Tensor.dim, Tensor.size, Tensor.__len__, Tensor.is_contiguous, Tensor.is_floating_point]
)
"""Calls that tell of a tensor what no round changes."""


class Unrecordable(Exception):
    """A round that must be run as it is; the message says why."""


def record(once: Callable[[int], None], step: int) -> Recording:
    """Record the round `once(step)`, which changes tensors in place, always the same ones. It is tried and undone.

    Raises:
        Unrecordable: it is none that a recording could stand for.
    """
    first, second = _Recorder(step), _Recorder(step + 1)
    for recorder in (first, second):
        try:
            with recorder:
                once(cast(int, AnyStep(recorder.draw)))
        except Exception as error:  # if the round itself is wrong, it will say so when it is run
            raise Unrecordable(f"{type(error).__name__}: {error}") from error
        finally:
            recorder.undo()
    if not first.equals(second):
        raise Unrecordable("two rounds in a row differ")
    return Recording(first)


class Recording:
    """Rounds by a graph. Tensors that the round has changed in place are changed in place."""

    def __init__(self, recorder: _Recorder) -> None:
        self._run, self._draws = recorder.compiled(), recorder.draws
        self._inputs: list[Tensor | None] = list(recorder.inputs)

    def __call__(self, steps: range) -> None:
        """Run the rounds of these steps, in order."""
        inputs, places = self._inputs.copy(), [place for place, each in enumerate(self._inputs) if each is None]
        for start in range(0, len(steps), DRAWN_AHEAD):
            some = steps[start : start + DRAWN_AHEAD]
            drawn = list(zip(some, *(draws(turn, some) for turn, draws in self._draws), strict=True))
            # Without autograd's bookkeeping a call on a short vector takes a fifth less.
            with torch.inference_mode():
                for _, *tensors in drawn:
                    for place, tensor in zip(places, tensors, strict=True):
                        inputs[place] = tensor
                    self._run(*inputs)


class _Recorder(TorchFunctionMode):
    """Writes every call of torch into a graph while a round runs.

    Attributes:
        inputs: tensors that the round has not made, in the order in which they appear; None for what it has drawn.
        draws: how that is drawn, and on which turn.
    """

    def __init__(self, step: int) -> None:
        super().__init__()
        self.inputs: list[Tensor | None] = []
        self.draws: list[tuple[Turn, Draws]] = []
        self._step, self._graph, self._drawing = step, fx.Graph(), False
        # By identity; the tensors are kept, so that no other takes the place of one that is gone.
        self._nodes: dict[int, tuple[Tensor, fx.Node]] = {}
        self._origins: list[object] = []
        self._overwritten: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Do the call, and write it down if it may be recorded."""
        named = dict(kwargs or {})
        if self._drawing or func in FACTS:
            return func(*args, **named)
        name = str(getattr(func, "__name__", func))
        if func not in CALLS or _picks_by_values(name, args):
            raise Unrecordable(f"the round calls {name}")
        targets = [args[0]] if _in_place(name) else [named["out"]] if "out" in named else []
        self._overwritten += [(target, target.clone()) for target in targets]
        taken, options = cast("tuple[Any, dict[str, Any]]", map_aggregate((args, named), self._node_of))
        result = func(*args, **named)
        if not targets and id(result) in self._nodes:
            return result  # such as x.to(x.dtype), which is x
        if func in VIEWS and self._lasts(taken[0]):
            self._input(result, result, (name, *map(str, taken)))
            return result
        if not targets and _makes(name, args):
            # From round to round into the same memory: lasting views of it may exist.
            self._input(result, result, "made by the round")
            func, options = getattr(torch, name), {**options, "out": self._node_of(result)}
        kind, target = ("call_method", name) if func in METHODS else ("call_function", func)
        node = self._graph.create_node(kind, target, taken, options)
        self._nodes.setdefault(id(result), (result, node))
        return result

    def draw(self, turn: Turn, draws: Draws) -> Tensor:
        """Note a draw of the round's; return that of the step at which it is recorded."""
        self._drawing = True
        drawn = draws(turn, range(self._step, self._step + 1))[0]
        self._drawing = False
        self.draws.append((turn, draws))
        who = (turn.layout, turn.rank, turn.size, turn.seed, turn.path)
        self._input(drawn, None, (who, draws))
        return drawn

    def undo(self) -> None:
        """Put back what the round has overwritten."""
        for target, values in reversed(self._overwritten):
            target.copy_(values)
        self._overwritten.clear()

    def equals(self, other: _Recorder) -> bool:
        """Whether both have recorded the same calls, of the same tensors and draws."""
        return self._origins == other._origins and str(self._graph) == str(other._graph)

    def compiled(self) -> Callable[..., object]:
        """The graph as a function of the inputs."""
        self._graph.output(None)
        for node in reversed(self._graph.nodes):
            name = node.target if isinstance(node.target, str) else ""
            if node.op.startswith("call") and not node.users and not _in_place(name) and "out" not in node.kwargs:
                self._graph.erase_node(node)
        return fx.GraphModule({}, self._graph).forward

    def _node_of(self, argument: Any) -> Any:
        """An argument as the graph knows it: a tensor by its node."""
        if not isinstance(argument, Tensor):
            return argument
        if id(argument) not in self._nodes:
            where = (argument.data_ptr(), argument.dtype, argument.shape, argument.stride())
            self._input(argument, argument, where)
        return self._nodes[id(argument)][1]

    def _lasts(self, node: fx.Node) -> bool:
        """Whether a tensor is the same in every round."""
        return node.op == "placeholder" and self.inputs[int(node.name.removeprefix("input_"))] is not None

    def _input(self, tensor: Tensor, lasting: Tensor | None, origin: object) -> None:
        self._nodes[id(tensor)] = tensor, self._graph.placeholder(f"input_{len(self.inputs)}")
        self.inputs.append(lasting)
        self._origins.append(origin)


def _makes(name: str, args: tuple[Any, ...]) -> bool:
    return name in INTO or (name == "sum" and len(args) > 1)  # a sum of everything knows no `out`


def _in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _picks_by_values(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a call's result is no view, or has a shape that depends on values: an index by more than places."""
    if name == "__getitem__":
        index = cast("tuple[object, ...]", args[1] if isinstance(args[1], tuple) else (args[1],))
        return not all(each is None or each is Ellipsis or isinstance(each, int | slice) for each in index)
    return name == "where" and len(args) != 3
