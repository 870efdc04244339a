"""Trainers: a resumed run equals an uninterrupted one, bit for bit, and can continue with any number of ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
from story import play
from test_torchrun import check

LIVES = "trainer_ranks.py"
TRAINERS = ("accelerate", "trainer", "lightning", "fabric")
RUNS = [f"{trainer}, {way}" for trainer in TRAINERS for way in ("attach", "local")]
UNWRAPPED = ("accelerate, attach", "trainer, attach", "trainer, local")
"""What has no hook where one process was started plainly."""

REFUSALS = (
    "missing a required argument: 'density'",
    "attach comes before accelerator.prepare: a model has been prepared already",
    "DDP takes one communication hook, and Accelerate's comm_hook is fp16 already",
    "gradwire comes between DDP and its gradients here, and this accelerator is set to FSDP",
    "Accelerate has wrapped no model since gradwire was attached: attach before prepare",
    "gradwire comes before trainer.train: the model is wrapped already",
    "Trainer has not wrapped the model in DDP with gradwire's handler: nothing is attached",
    "was saved after [4] exchanges and",
    "gradwire saves to a folder beside the checkpoint, which s3://bucket/x.ckpt has not",
    "local steps need a model and its optimizers together: fabric.setup(model, optimizer)",
)
EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.story


@pytest.mark.timeout(500)
def test_two_ranks_resume_bit_for_bit_and_become_four_and_one(tmp_path: Path) -> None:
    for line in play("resumes_and_corners", str(tmp_path), ranks=2, seconds=200, lives="trainer_corners.py"):
        ends, refusals = line["result"]["ends"], line["result"]["refusals"]
        assert list(ends) == RUNS
        for run, (whole, resumed, bare) in ends.items():
            assert resumed == whole, run
            assert bare != whole, run
        for said, words in zip(refusals, REFUSALS, strict=True):
            assert words in said
            assert "\n" not in said
    for ranks in (4, 1):
        for line in play("goes_on_elsewhere", str(tmp_path), ranks=ranks, seconds=150, lives=LIVES):
            wrapped = RUNS if ranks > 1 else [run for run in RUNS if run not in UNWRAPPED]
            assert line["result"] == dict.fromkeys(wrapped, 8)


@pytest.mark.timeout(200)
def test_the_examples_learn_send_little_and_end_alike() -> None:
    scripts = [str(EXAMPLES / f"{name}.py") for name in ("trainer", "lightning_trainer", "fabric", "accelerator")]
    lines = play("examples", *scripts, ranks=2, seconds=150, lives=LIVES)
    for script in scripts:
        check("\n".join(line["result"][script] for line in lines), 2)
