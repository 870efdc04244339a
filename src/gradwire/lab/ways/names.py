"""How workers are kept together, by name: the one list of torch's own ways, and beside them every spec of gradwire.

none         not at all: every backward pass under no_sync, which is what a step costs without a network
dense        DDP as it comes
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
"""torch's own ways; PowerSGD's name ends in its rank."""

NONE, DENSE, AUTO = "none", "dense", "auto"
AUTO_DENSE = f"{AUTO} ({DENSE})"
"""What auto is called in a table where it has chosen to leave DDP alone."""


def check_way(name: str) -> None:
    """Refuse what is neither one of torch's ways, nor local steps, nor a spec (SpecError, one sentence)."""
    if is_torch(name) or name in (NONE, AUTO) or local_steps(name) is not None:
        return
    try:
        parse(name)
    except SpecError as error:
        raise SpecError(f"{error} (or one of {', '.join(TORCH)}, local)") from None


def is_torch(name: str) -> bool:
    """Whether a name is one of torch's own ways."""
    return name in TORCH or powersgd_rank(name) is not None


def powersgd_rank(name: str) -> int | None:
    """The rank of torch's PowerSGD that a name asks for: 4 for "powersgd4"; None for any other name."""
    found = re.fullmatch(r"powersgd([1-9][0-9]{0,3})", name)
    return int(found[1]) if found else None
