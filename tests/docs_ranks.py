"""Run the Python of a docs page that needs a process group: docs_ranks.py PAGE

Each page shows a few lines of a training script; this file provides the rest of the script.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

import gradwire
from gradwire.kernels import Accumulated


def fail() -> None:
    raise RuntimeError("gradwire's exchange failed: Connection reset by peer")


def around(folder: str) -> dict[str, Any]:
    model = torch.nn.Linear(4, 4)
    hook = gradwire.attach(model, "ef(topk(density=0.1))")
    model(torch.ones(4)).sum().backward()
    return {
        "dcp": dcp,
        "gradwire": gradwire,
        "torch": torch,
        "folder": folder,
        "hook": hook,
        "model_state": model.state_dict(),
        "loss": SimpleNamespace(backward=fail),
        "those_who_are_left": [0],
        "Protocol": Protocol,
        "Accumulated": Accumulated,
    }


if __name__ == "__main__":
    page = Path(sys.argv[1])
    dist.init_process_group("gloo")
    scripts = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    with tempfile.TemporaryDirectory() as folder:
        names = around(folder)
        for script in scripts:
            exec(compile(script, page.name, "exec"), names)
        names["hook"].close()
    dist.destroy_process_group()
    print(json.dumps({"rank": int(os.environ["RANK"]), "scripts": len(scripts)}))
