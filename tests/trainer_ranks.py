"""The functions that ranks run in the stories of trainers: train, save and resume, in Accelerate, Trainer, Lightning
and Fabric.

Every framework is imported once a process, and one process tests all of them.
"""

from __future__ import annotations

import json
import logging
import os
import runpy
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from functools import partial
from io import StringIO
from pathlib import Path

RANK, SIZE = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
os.environ |= {"LOCAL_RANK": os.environ["RANK"], "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
if SIZE == 1:  # as a script that is started plainly
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        del os.environ[variable]

import torch
import torch.distributed as dist
from ranks import assert_equal_on_all_ranks, loss
from torch import Tensor, nn

import gradwire as gw
from gradwire.doors.initial import digest

SPEC = "ef(topk(density=0.05))"
STEPS, SAVED_AT = 8, 4
LOCAL = partial(gw.local, every=3, exchange="ef(topk(density=0.1))")


def net() -> nn.Module:
    """Make a net with dropout, so that random numbers must be resumed too; ranks begin with different nets."""
    torch.manual_seed(RANK)
    return nn.Sequential(nn.Linear(5, 30), nn.Tanh(), nn.Dropout(0.2), nn.Linear(30, 2))


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def everybody(words: object) -> list[object]:
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, words)
    return found


@contextmanager
def said() -> Iterator[list[str]]:
    """Collect what gradwire logs, and what is warned of."""
    words: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: words.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("gradwire").addHandler(handler)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield words
    logging.getLogger("gradwire").removeHandler(handler)
    words.extend(str(warning.message) for warning in caught)


def memories(folder: Path) -> list[dict]:
    """Return every rank's state as it was saved."""
    files = sorted(folder.glob("gradwire-*.pt"))
    return [torch.load(file, weights_only=True)["states"][0] for file in files]


def is_their_merge(hook: object, folder: Path) -> bool:
    """Check that what was loaded is the mean over the ranks that saved."""
    wanted, mine = gw.merge([_plain(state) for state in memories(folder)]), hook.state_dict()
    for name, parts in wanted["memory"].items():
        assert parts
        assert all(torch.equal(part, mine["memory"][name][path]) for path, part in parts.items())
    return mine["step"] == wanted["step"] > 0


def _plain(state: dict) -> dict:
    return {name: value for name, value in state.items() if name != "optimizers"}


# ---- every framework: train to the end, from the start or from a checkpoint; what the model is then, and the hook


def by_accelerate(folder: Path, resume: Path | None, *, local: bool) -> tuple[nn.Module, object]:
    from accelerate import Accelerator

    from gradwire.integrations.accelerate import attach, prepare_local

    accelerator, model = Accelerator(gradient_accumulation_steps=2), net()
    optimizer = adamw(model)
    if local:
        model, optimizer, hook = prepare_local(accelerator, model, optimizer, LOCAL)
    else:
        handler = attach(accelerator, SPEC)
        model, optimizer = accelerator.prepare(model, optimizer)
        hook = handler.hooks[0] if handler.hooks else None
    first = 0
    if resume is not None:
        accelerator.load_state(str(resume))
        first = SAVED_AT
        if hook is not None and SIZE != 2:
            assert is_their_merge(hook, resume / "gradwire")
    for step in range(first, STEPS):
        for micro in range(2):
            with accelerator.accumulate(model):
                accelerator.backward(loss(model, 2 * step + micro, RANK))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        if local and step == 0:
            assert len(set(everybody(digest(model.parameters())))) == SIZE  # nothing is averaged between rounds
        if step + 1 == SAVED_AT and resume is None:
            accelerator.save_state(str(folder / "state"))
    if local:
        hook.finish()
    return accelerator.unwrap_model(model), hook


def gpt2_trainer(folder: Path, **options: object) -> object:
    """Make a subclass of Trainer with a loss of its own, as TRL's are, and a GPT-2 of two layers with dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    class Own(Trainer):
        def compute_loss(self, *args: object, **kwargs: object) -> Tensor:
            return super().compute_loss(*args, **kwargs) * 1.5

    torch.manual_seed(RANK)
    config = GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    tokens = torch.randint(32, (64, 8), generator=torch.Generator().manual_seed(0))
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=0.01,
        logging_steps=100,
        report_to=[],
        disable_tqdm=True,
        **options,
    )
    data = [{"input_ids": row, "labels": row} for row in tokens]
    return Own(GPT2LMHeadModel(config), arguments, train_dataset=data)


def by_trainer(folder: Path, resume: Path | None, *, local: bool) -> tuple[nn.Module, object]:
    from gradwire.integrations.transformers import attach
    from gradwire.integrations.transformers import local as rounds

    trainer = gpt2_trainer(folder, max_steps=STEPS, save_steps=SAVED_AT)
    elsewhere = None if resume is None else str(resume)
    given = rounds(trainer, LOCAL, elsewhere) if local else attach(trainer, SPEC, elsewhere)
    trainer.train(resume_from_checkpoint=elsewhere)
    if local:
        return trainer.model, given.local
    return trainer.model, given.hooks[0] if given.hooks else None


def by_lightning(folder: Path, resume: Path | None, *, local: bool, keep: int = -1) -> tuple[nn.Module, object]:
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    from gradwire.integrations.lightning import AttachStrategy, LocalStrategy

    class Net(lightning.LightningModule):
        """A net without dropout and with data by step, because Lightning restores neither random numbers nor the
        loader's place.
        """

        def __init__(self) -> None:
            super().__init__()
            self.net = net()
            self.net[2].p = 0.0

        def training_step(self, _: Tensor, number: int) -> Tensor:
            return loss(self.net, 2 * self.global_step + number % 2, RANK)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adamw(self)

        def train_dataloader(self) -> object:
            return torch.utils.data.DataLoader(torch.zeros(64 * SIZE))

    strategy, model = LocalStrategy(LOCAL) if local else AttachStrategy(SPEC), Net()
    saves = ModelCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=SAVED_AT, save_top_k=keep)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=SIZE,
        strategy=strategy,
        max_steps=STEPS,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[saves] if resume is None else [],
        enable_checkpointing=resume is None,
    )
    trainer.fit(model, ckpt_path=resume)
    if resume is None:
        trainer.save_checkpoint(folder / "final.ckpt")
    return model, strategy.local if local else strategy.hook


def by_fabric(folder: Path, resume: Path | None, *, local: bool) -> tuple[nn.Module, object]:
    from lightning.fabric import Fabric

    from gradwire.integrations.lightning import FabricAttachStrategy, FabricLocalStrategy

    strategy, model = FabricLocalStrategy(LOCAL) if local else FabricAttachStrategy(SPEC), net()
    fabric = Fabric(accelerator="cpu", devices=SIZE, strategy=strategy)
    fabric.launch()
    model[2].p = 0.0
    model, optimizer = fabric.setup(model, adamw(model))
    hook = (strategy.locals if local else strategy.hooks)[0]
    state = {"model": model, "optimizer": optimizer, "step": 0}
    if resume is not None:
        fabric.load(resume, state)
        if SIZE != 2:
            assert is_their_merge(hook, Path(f"{resume}.gradwire"))
    for step in range(state["step"], STEPS):
        for micro in range(2):
            with fabric.no_backward_sync(model, enabled=micro == 0):
                fabric.backward(loss(model, 2 * step + micro, RANK))
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step + 1 == SAVED_AT and resume is None:
            state["step"] = step + 1
            fabric.save(folder / "state.ckpt", state)
    if local:
        hook.finish()
    return model.module, hook


TRAINERS = {
    "accelerate": (by_accelerate, "state", "state/gradwire"),
    "trainer": (by_trainer, "checkpoint-4", "checkpoint-4/gradwire"),
    "lightning": (by_lightning, "step=4.ckpt", "step=4.ckpt.gradwire"),
    "fabric": (by_fabric, "state.ckpt", "state.ckpt.gradwire"),
}
WAYS = {"attach": False, "local": True}


def resumes(root: str) -> dict[str, list[str]]:
    """Return the final model of an uninterrupted run, of a resumed one, and of one resumed without its memories."""
    told = {}
    for trainer, (train, checkpoint, memory) in TRAINERS.items():
        for way, local in WAYS.items():
            folder = Path(root) / f"{trainer}-{way}"
            bare = folder.with_name(f"{folder.name}-bare")
            ends = []
            for resume in (None, folder / checkpoint, bare / checkpoint):
                if resume is not None and resume.is_relative_to(bare) and RANK == 0:
                    shutil.copytree(folder, bare)
                    shutil.rmtree(bare / memory)
                dist.barrier()
                with said() as words:
                    model, hook = train(folder, resume, local=local)
                assert_equal_on_all_ranks(model)
                ends.append(digest(model.parameters()))
                warned = [word for word in words if "memories start at zero" in word]
                assert not any("DDP has not exchanged" in word for word in words)  # Lightning's step runs backward
                assert bool(warned) == (resume is not None and resume.is_relative_to(bare)), words
                taken = hook.local_steps if local else hook.step
                assert taken == (STEPS - SAVED_AT if warned else STEPS)
                hook.close()
            told[f"{trainer}, {way}"] = ends
    return told


def goes_on_elsewhere(root: str) -> dict[str, int]:
    """This many ranks resume what two have saved; every memory is the mean over the two."""
    told = {}
    for trainer, (train, checkpoint, _) in TRAINERS.items():
        for way, local in WAYS.items():
            folder = Path(root) / f"{trainer}-{way}"
            with said() as words:
                model, hook = train(folder.with_name(f"{folder.name}-{SIZE}"), folder / checkpoint, local=local)
            alone = [word for word in words if "runs one process, so nothing is exchanged" in word]
            assert bool(alone) == (SIZE == 1 and not (local and trainer != "trainer")), words
            if hook is None:  # the framework wraps nothing
                assert "gradwire has no effect" in alone[0]
                assert local or any("one process has no memories, so those in" in word for word in words), words
                continue
            assert_equal_on_all_ranks(model)
            told[f"{trainer}, {way}"] = hook.local_steps if local else hook.step
            hook.close()
    return told


def examples(*scripts: str) -> dict[str, str]:
    """Run the examples one after the other, as torchrun starts them, and return what each prints."""
    printed, environment = {}, dict(os.environ)
    for script in scripts:
        os.environ |= environment  # Lightning removes what it was started with
        with redirect_stdout(StringIO()) as out:
            runpy.run_path(script, run_name="__main__")
        printed[script] = out.getvalue()
    return printed


def main(lives: dict[str, Callable[..., object]], name: str, *arguments: str) -> None:
    torch.set_num_threads(1)
    if SIZE > 1 and name != "examples":  # those are left as a user's processes: frameworks make groups themselves
        dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    with redirect_stdout(sys.stderr):  # Trainer prints
        result = lives[name](*arguments)
    print(json.dumps({"rank": RANK, "result": result}), flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
