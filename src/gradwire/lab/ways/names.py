"""The names of methods that keep workers' models together: torch's own, every gradwire spec, and local steps.

none         no averaging: every backward pass runs under no_sync, which shows a step's time without a network
dense        plain DDP
fp16         torch's fp16_compress_hook
powersgd4    torch's powerSGD_hook of rank 4, with error feedback and warm start, the whole model in one bucket
auto, specs  `gradwire.attach`
local        `gradwire.local`, also with arguments: local(every=30, exchange='ef(topk(density=0.05))')
"""

from __future__ import annotations

import re

from gradwire.lab.ways.local_steps import local_steps
from gradwire.spec import SpecError, parse

TORCH = {"dense": "DDP as it comes", "fp16": "torch's fp16_compress_hook", "powersgd1": "torch's powerSGD_hook"}
"""torch's own methods; PowerSGD's name ends in its rank."""

NONE, DENSE, AUTO = "none", "dense", "auto"
AUTO_DENSE = f"{AUTO} ({DENSE})"
"""The label of auto in tables if it has chosen plain DDP."""


def check_way(name: str) -> None:
    """Raise SpecError, in one sentence, for a name that is no method of torch, no local steps and no spec."""
    if is_torch(name) or name in (NONE, AUTO) or local_steps(name) is not None:
        return
    try:
        parse(name)
    except SpecError as error:
        raise SpecError(f"{error} (or one of {', '.join(TORCH)}, local)") from None


def is_torch(name: str) -> bool:
    """Whether a name is one of torch's own methods."""
    return name in TORCH or powersgd_rank(name) is not None


def powersgd_rank(name: str) -> int | None:
    """The rank in a name of torch's PowerSGD: 4 for "powersgd4"; None for any other name."""
    found = re.fullmatch(r"powersgd([1-9][0-9]{0,3})", name)
    return int(found[1]) if found else None
