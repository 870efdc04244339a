"""What all fuzzing shares: its budget, and how a value is spoilt."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

LONG = os.environ.get("GRADWIRE_FAULTS") == "all"
"""Set by `make faults`: forty times the examples of `make test`."""

NOTHING = (None, "", [], {}, [[]], {"": None})
QUIRKS = (*NOTHING, True, -1, 2**80, 0.5, float("nan"), "x" * 1000, "ef(mean)", b"\x80", range(3))
"""What a checkpoint's entry is replaced by."""


def budget(examples: int) -> settings:
    """Set the number of examples: fixed ones in `make test`; forty times as many random ones in `make faults`."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=examples * (40 if LONG else 1),
        derandomize=not LONG,
        deadline=None,
        database=None,
        suppress_health_check=slow,
    )


def paths(value: Any, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the path to every entry of a nest of dictionaries and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [so_far] if so_far else []
    return found + [path for key, each in inner for path in paths(each, (*so_far, key))]


def spoil(data: st.DataObject, value: Any) -> Any:
    """Return a copy with one to three entries replaced, removed or doubled, or, if they are tensors, changed."""
    value = copy.deepcopy(value)
    for _ in range(data.draw(st.integers(1, 3))):
        where = paths(value)
        if not where:
            return value
        *way, last = data.draw(st.sampled_from(where))
        inner = value
        for key in way:
            inner = inner[key]
        how = data.draw(st.sampled_from(["replace", "replace", "remove", "change", "add"]))
        if how == "remove" or (how == "add" and isinstance(inner, list)):
            del inner[last]
        elif how == "add":
            inner[data.draw(st.sampled_from(["stranger", "unit.x", 3, None]))] = copy.deepcopy(inner[last])
        elif how == "change" and isinstance(inner[last], Tensor):
            inner[last] = odd(data, inner[last])
        elif how == "change" and (type(inner[last]) is int or (type(inner[last]) is str and len(inner[last]) < 1000)):
            inner[last] = inner[last] * data.draw(st.sampled_from([-1, 0, 2, 1000]))
        else:
            inner[last] = copy.deepcopy(data.draw(st.sampled_from(QUIRKS)))
    return value


def odd(data: st.DataObject, x: Tensor) -> Tensor:
    """Return a tensor that differs a little from this one."""
    kinds = {
        "nan": lambda: torch.full_like(x, float("nan")),
        "inf": lambda: torch.full_like(x, float("inf")),
        "huge": lambda: torch.full(x.shape, 1e300, dtype=torch.float64),
        "one more": lambda: torch.cat([x.flatten(), x.new_zeros(1)]),
        "none": lambda: x.new_zeros(0),
        "transposed": lambda: x.t() if x.ndim == 2 else x[None],
        "expanded": lambda: x.new_zeros(1).expand(x.shape),
        "whole": lambda: x.to(torch.int32),
        "half": lambda: x.to(torch.float16),
        "complex": lambda: x.to(torch.complex64),
        "bool": lambda: x.bool(),
        "meta": lambda: x.to("meta"),
        "sparse": lambda: x.reshape(1, -1).to_sparse(),
        "quantised": lambda: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
        "needs a gradient": lambda: x.clone().requires_grad_(),
    }
    try:
        return kinds[data.draw(st.sampled_from(sorted(kinds)))]()
    except (RuntimeError, TypeError, ValueError):  # one that is odd already: a sparse or a meta tensor, a bool
        return x
