"""Recording a batched round: its sequence of torch calls, without the Python code that made them.

On small problems a round spends as much time between torch calls as in them: coroutines, turns, vectors, the ledger.
None of that changes from round to round. So one round is recorded as a torch.fx graph, and the graph is run for the
other rounds: the same calls with the same arguments in the same order, so results are bit-equal.

A round is not recorded, and runs as it is, if it
  - makes calls whose result or shape depends on values, or that leave torch (`numpy`, `item`, a comparison in an `if`);
  - reads its step: while recording, a turn stands for every step and raises `StepDependent` (layout.py), except for
    draws, which the recording makes again at every step;
  - differs in any other way from the next round: two recordings in a row must be equal.
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
"""Number of steps whose draws are made at once."""

_VIEWS = "view unsqueeze squeeze expand expand_as transpose __getitem__"
_NEW = "add sub mul div neg abs square sqrt sigmoid maximum minimum clamp"
_OTHERS = "mean amax gather index_select to double float clone reshape flatten new_zeros"
_IN_PLACE = "add_ sub_ mul_ div_ sigmoid_ lerp_ scatter_add_ copy_ zero_"
_FUNCTIONS = "zeros zeros_like empty empty_like where cat stack"
_FACTS = "shape ndim dtype device is_cuda is_cpu itemsize nbytes"


def _called(owner: Any, names: str) -> frozenset[Any]:
    return frozenset(getattr(owner, name) for name in names.split())


VIEWS = _called(Tensor, _VIEWS)
"""Calls whose result shares the argument's memory; the view of a lasting tensor is made once."""

INTO = {*_NEW.split(), "addmv", "baddbmm"}
"""Names of calls that make a new tensor, and have an `out` argument to write into an existing one."""

METHODS = VIEWS | _called(Tensor, f"{_NEW} sum {_OTHERS} {_IN_PLACE}")
CALLS = METHODS | _called(torch, f"add sub mul div maximum minimum addmv baddbmm {_FUNCTIONS}")
"""Calls that may be recorded: the shapes of their results follow from the shapes of their arguments."""

FACTS = frozenset[Any](
    [getattr(Tensor, name).__get__ for name in _FACTS.split()]
    + [Tensor.numel, Tensor.dim, Tensor.size, Tensor.__len__, Tensor.is_contiguous, Tensor.is_floating_point]
)
"""Calls that read properties of a tensor that no round changes."""


class Unrecordable(Exception):
    """A round cannot be recorded; the message says why."""


def record(once: Callable[[int], None], step: int) -> Recording:
    """Record the round `once(step)`, which must always change the same tensors in place.

    The round is run twice, at `step` and `step + 1`, and its writes are undone.

    Raises:
        Unrecordable: the round cannot be replaced by a recording.
    """
    first, second = _Recorder(step), _Recorder(step + 1)
    for recorder in (first, second):
        try:
            with recorder:
                once(cast(int, AnyStep(recorder.draw)))
        except Exception as error:  # an error of the round itself will be raised again when it runs as it is
            raise Unrecordable(f"{type(error).__name__}: {error}") from error
        finally:
            recorder.undo()
    if not first.equals(second):
        raise Unrecordable("two rounds in a row differ")
    return Recording(first)


class Recording:
    """A recorded round, which can be run for any steps. It changes the same tensors in place as the round."""

    def __init__(self, recorder: _Recorder) -> None:
        self._run, self._draws = recorder.compiled(), recorder.draws
        self._inputs: list[Tensor | None] = list(recorder.inputs)

    def __call__(self, steps: range) -> None:
        """Run the round for each of these steps, in order."""
        inputs, places = self._inputs.copy(), [place for place, each in enumerate(self._inputs) if each is None]
        for start in range(0, len(steps), DRAWN_AHEAD):
            some = steps[start : start + DRAWN_AHEAD]
            drawn = list(zip(some, *(draws(turn, some) for turn, draws in self._draws), strict=True))
            # Without autograd's bookkeeping a call on a short vector takes a fifth less time.
            with torch.inference_mode():
                for _, *tensors in drawn:
                    for place, tensor in zip(places, tensors, strict=True):
                        inputs[place] = tensor
                    self._run(*inputs)


class _Recorder(TorchFunctionMode):
    """Records every torch call of a running round in a graph.

    Attributes:
        inputs: the graph's inputs in order of appearance: tensors that the round did not make, or None for a draw.
        draws: for each draw, its turn and the function that makes it.
    """

    def __init__(self, step: int) -> None:
        super().__init__()
        self.inputs: list[Tensor | None] = []
        self.draws: list[tuple[Turn, Draws]] = []
        self._step, self._graph, self._drawing = step, fx.Graph(), False
        # By id; the tensors are kept alive, so that no new tensor can get the id of a freed one.
        self._nodes: dict[int, tuple[Tensor, fx.Node]] = {}
        self._origins: list[object] = []
        self._overwritten: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Make the call and record it; Unrecordable if it may not be recorded."""
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
            return result  # the call returned an existing tensor, as x.to(x.dtype) returns x
        if func in VIEWS and self._lasts(taken[0]):
            self._input(result, result, (name, *map(str, taken)))
            return result
        if not targets and _makes(name, args):
            # Replayed rounds write the result into this same tensor, of which lasting views may exist.
            self._input(result, result, "made by the round")
            func, options = getattr(torch, name), {**options, "out": self._node_of(result)}
        kind, target = ("call_method", name) if func in METHODS else ("call_function", func)
        node = self._graph.create_node(kind, target, taken, options)
        self._nodes.setdefault(id(result), (result, node))
        return result

    def draw(self, turn: Turn, draws: Draws) -> Tensor:
        """Record a draw of the round, and return its values for the step at which the round is recorded."""
        self._drawing = True
        drawn = draws(turn, range(self._step, self._step + 1))[0]
        self._drawing = False
        self.draws.append((turn, draws))
        who = (turn.layout, turn.rank, turn.size, turn.seed, turn.path)
        self._input(drawn, None, (who, draws))
        return drawn

    def undo(self) -> None:
        """Restore the tensors that the round has overwritten."""
        for target, values in reversed(self._overwritten):
            target.copy_(values)
        self._overwritten.clear()

    def equals(self, other: _Recorder) -> bool:
        """Whether both recorded the same calls with the same tensors and draws."""
        return self._origins == other._origins and str(self._graph) == str(other._graph)

    def compiled(self) -> Callable[..., object]:
        """Compile the graph, without calls whose results are unused, to a function of the inputs."""
        self._graph.output(None)
        for node in reversed(self._graph.nodes):
            name = node.target if isinstance(node.target, str) else ""
            if node.op.startswith("call") and not node.users and not _in_place(name) and "out" not in node.kwargs:
                self._graph.erase_node(node)
        return fx.GraphModule({}, self._graph).forward

    def _node_of(self, argument: Any) -> Any:
        """The graph's node of a tensor argument; any other argument as it is."""
        if not isinstance(argument, Tensor):
            return argument
        if id(argument) not in self._nodes:
            where = (argument.data_ptr(), argument.dtype, argument.shape, argument.stride())
            self._input(argument, argument, where)
        return self._nodes[id(argument)][1]

    def _lasts(self, node: fx.Node) -> bool:
        """Whether a node is an input that is the same tensor in every round."""
        return node.op == "placeholder" and self.inputs[int(node.name.removeprefix("input_"))] is not None

    def _input(self, tensor: Tensor, lasting: Tensor | None, origin: object) -> None:
        self._nodes[id(tensor)] = tensor, self._graph.placeholder(f"input_{len(self.inputs)}")
        self.inputs.append(lasting)
        self._origins.append(origin)


def _makes(name: str, args: tuple[Any, ...]) -> bool:
    return name in INTO or (name == "sum" and len(args) > 1)  # a sum over all elements has no `out`


def _in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _picks_by_values(name: str, args: tuple[Any, ...]) -> bool:
    """Whether indexing or `where` depends on values: an index other than ints, slices, None and ..., or where(mask)."""
    if name == "__getitem__":
        index = cast("tuple[object, ...]", args[1] if isinstance(args[1], tuple) else (args[1],))
        return not all(each is None or each is Ellipsis or isinstance(each, int | slice) for each in index)
    return name == "where" and len(args) != 3
