"""The functions that ranks run in the story of trainers' corners: refusals, warnings, compiled models,
removed files.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from trainer_ranks import RANK, SPEC, adamw, by_lightning, gpt2_trainer, main, memories, net, resumes, said  # isort: skip

import pytest
import torch.distributed as dist
from ranks import assert_equal_on_all_ranks, loss
from torch import nn

import gradwire as gw


def resumes_and_corners(root: str) -> dict[str, object]:
    """Run `trainer_ranks.resumes` and the functions below in one start of the processes."""
    folder = Path(root)
    ends = resumes(root)
    told = [*accelerate_corners(), *trainer_corners(folder), *lightning_corners(folder)]
    return {"ends": ends, "refusals": told}


def refusal(call: Callable[[], object], error: type[Exception] = ValueError) -> str:
    with pytest.raises(error) as found:
        call()
    return str(found.value)


def accelerate_corners() -> list[str]:
    """Test models that Accelerate compiles, around DDP, with buffers and a DDP option of their own; and refusals."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import (
        DDPCommunicationHookType,
        DistributedDataParallelKwargs,
        DistributedType,
        broadcast_object_list,
    )

    from gradwire.integrations.accelerate import attach, prepare_local
    from gradwire.integrations.handlers import inner_handler

    AcceleratorState._reset_state()  # all accelerators of a process share it, and what they compile with
    model = nn.Sequential(nn.Linear(5, 30), nn.BatchNorm1d(30), nn.Linear(30, 2))
    for local in (False, True):
        options = DistributedDataParallelKwargs(find_unused_parameters=True)
        accelerator = Accelerator(dynamo_backend="eager", kwargs_handlers=[options])
        optimizer = adamw(model)
        with said() as words:
            if local:
                compiled, optimizer, hook = prepare_local(accelerator, model, optimizer, partial(gw.local, every=2))
            else:
                handler = attach(accelerator, partial(gw.attach, exchange=SPEC, seed=7))
                compiled, optimizer = accelerator.prepare(model, optimizer)
                [hook] = handler.hooks
        assert type(compiled).__name__ == "OptimizedModule"
        for warning in ("find_unused_parameters=False stops it", "DDP broadcasts 248 bytes of buffers"):
            assert sum(warning in word for word in words) == (RANK == 0 and not local), words
        for step in range(2):
            accelerator.backward(loss(compiled, step, RANK))
            optimizer.step()
            optimizer.zero_grad()
        assert (hook.seed, hook.step) == ((0, 1) if local else (7, 2))
        assert_equal_on_all_ranks(model)
        hook.close()
    refusal(hook.finish, RuntimeError)  # and no waiting for a thread that has ended
    AcceleratorState._reset_state()
    undecided = Accelerator()
    auto = attach(undecided, "auto")
    undecided.prepare(net())
    [folder] = broadcast_object_list([tempfile.mkdtemp()])
    undecided.save_state(folder)
    undecided.load_state(folder)
    assert auto.hooks[0].choice is None
    auto.hooks[0].close()
    half = DistributedDataParallelKwargs(comm_hook=DDPCommunicationHookType.FP16)
    untouched = Accelerator()
    attach(untouched, SPEC)
    return [
        refusal(lambda: attach(Accelerator(), "ef(topk)")),
        refusal(lambda: attach(accelerator, SPEC), RuntimeError),
        refusal(lambda: attach(Accelerator(kwargs_handlers=[half]), SPEC)),
        refusal(lambda: inner_handler(SimpleNamespace(distributed_type=DistributedType.FSDP))),
        refusal(lambda: untouched.save_state(tempfile.mkdtemp()), RuntimeError),
    ]


def trainer_corners(root: Path) -> list[str]:
    """Rotation removes memories with their checkpoint. Refusals include a handler that was lost."""
    from gradwire.integrations.transformers import attach

    trainer = gpt2_trainer(root / "rotated", save_steps=1, save_total_limit=1, max_steps=3)
    handler = attach(trainer, SPEC)
    trainer.train()
    dist.barrier()
    assert [folder.name for folder in (root / "rotated").iterdir()] == ["checkpoint-3"]
    assert memories(root / "rotated" / "checkpoint-3" / "gradwire")[RANK]["step"] == 3
    told = [refusal(lambda: attach(trainer, SPEC), RuntimeError)]
    handler.hooks[0].close()
    lost = gpt2_trainer(root / "lost", max_steps=1)
    attach(lost, SPEC)
    lost.accelerator.ddp_handler = None
    return [*told, refusal(lost.train, RuntimeError)]


def lightning_corners(root: Path) -> list[str]:
    """Only the newest checkpoint is kept if asked for. Refusals include a folder of another moment than its file."""
    from gradwire.integrations.lightning import FabricLocalStrategy, beside

    _, hook = by_lightning(root / "newest", None, local=False, keep=1)
    hook.close()
    dist.barrier()
    assert sorted(path.name for path in (root / "newest").iterdir()) == [
        f"{name}{end}" for name in ("final.ckpt", "step=8.ckpt") for end in ("", ".gradwire")
    ]
    mixed = root / "mixed"
    if RANK == 0:
        shutil.copytree(root / "lightning-attach", mixed)
        shutil.rmtree(mixed / "step=4.ckpt.gradwire")
        (mixed / "step=8.ckpt.gradwire").rename(mixed / "step=4.ckpt.gradwire")
    dist.barrier()
    return [
        refusal(lambda: by_lightning(mixed, mixed / "step=4.ckpt", local=False)),
        refusal(lambda: beside.folder("s3://bucket/x.ckpt")),
        refusal(lambda: FabricLocalStrategy().setup_module(net()), RuntimeError),
    ]


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
