"""Faults that leave every rank alive. Each case is a function that makes one fault and checks what must hold
afterwards.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from promises import agreement, law, nothing_left, refused, resume, same, unchanged
from ranks import batch, loss, model
from torch import Tensor, nn
from trial import CAP, DOORS, Setting, Trial

GRADIENTS = ("DDP", "bare", "FSDP2")


@dataclass(frozen=True)
class Case:
    """A fault. promises: what is checked. doors: where it can happen. quick: whether `make test` runs it."""

    name: str
    act: Callable[[Setting], None]
    promises: str
    doors: tuple[str, ...] = DOORS
    quick: bool = False


CASES: dict[str, Case] = {}


def case(name: str, promises: str, doors: tuple[str, ...] = DOORS, *, quick: bool = False) -> Callable[..., Any]:
    def registered(act: Callable[[Setting], None]) -> Callable[[Setting], None]:
        CASES[name] = Case(name, act, promises, doors, quick)
        return act

    return registered


def train(trial: Trial, first: int, last: int) -> None:
    for number in range(first, last):
        trial.step(number)


def well(trial: Trial, first: int) -> None:
    """Train four more steps: the law holds and the ranks agree."""
    train(trial, first, first + 4)
    agreement(trial)
    law(trial)
    trial.close()


# ---- gradients


def of_one(value: float) -> float:
    return value if dist.get_rank() == 1 else 1.0


def odd_gradients(setting: Setting, factor: float, *, finite: bool) -> None:
    trial = Trial(setting)
    train(trial, 0, 2)
    if finite:
        trial.step(2, factor=factor, update=False)
        assert trial.hook.skipped == 0
    else:
        with _memory(trial):
            trial.step(2, factor=factor, update=False, counted=False)
        assert trial.hook.skipped == 1
    well(trial, 3)


class _memory:
    """Check that the memory has the same bits after this context as before."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial

    def __enter__(self) -> None:
        self.before = self.trial.hook.state_dict()["memory"]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            assert same(self.before, self.trial.hook.state_dict()["memory"]), "the memory has changed"


@case("NaN in one rank's gradients", "law, agreement", GRADIENTS, quick=True)
def nan_on_one(setting: Setting) -> None:
    odd_gradients(setting, of_one(float("nan")), finite=False)


@case("inf in all ranks' gradients", "law, agreement", GRADIENTS)
def inf_on_all(setting: Setting) -> None:
    odd_gradients(setting, float("inf"), finite=False)


@case("gradients of zero on one rank", "law, agreement", GRADIENTS)
def zero_on_one(setting: Setting) -> None:
    odd_gradients(setting, of_one(0.0), finite=True)


@case("gradients of zero on all ranks, from the first step", "law, agreement", GRADIENTS)
def zero_on_all(setting: Setting) -> None:
    trial = Trial(setting)
    for number in range(3):
        trial.step(number, factor=0.0)
    assert trial.hook.skipped == 0
    well(trial, 3)


@case("subnormal gradients", "law, agreement", GRADIENTS)
def subnormal(setting: Setting) -> None:
    odd_gradients(setting, 1e-40, finite=True)


@case("gradients near 1e36", "law, agreement", GRADIENTS)
def huge(setting: Setting) -> None:
    trial = Trial(setting)
    trial.step(0, factor=1e36, update=False)
    for number in range(1, 4):
        trial.step(number, update=False)
    assert trial.hook.skipped == 0
    kept = [part for parts in trial.hook.state_dict()["memory"].values() for part in parts.values()]
    assert all(bool(part.isfinite().all()) for part in kept), "the memory is not finite"
    law(trial)
    agreement(trial)
    trial.close()


@case("parameters of NaN on one rank, when a round ends", "law, agreement", ("local",), quick=True)
def poisoned(setting: Setting) -> None:
    trial = Trial(setting)
    train(trial, 0, 2)
    trial.poison = dist.get_rank() == 1
    train(trial, 2, 4)
    trial.poison = False
    assert trial.hook.skipped == 1
    well(trial, 4)


# ---- exceptions


class Stumble(Exception):
    pass


def stumbling(setting: Setting) -> Setting:
    """A loss that fails at step 2, when backward is halfway through the model."""

    def fails(_: Tensor) -> None:
        raise Stumble

    def armed(_module: nn.Module, _inputs: object, out: Tensor) -> None:
        out.register_hook(fails)

    def halfway(net: nn.Module, step: int, rank: int) -> Tensor:
        if step != 2 or not torch.is_grad_enabled():
            return loss(net, step, rank)
        handle = getattr(net, "module", net)[4].register_forward_hook(armed)
        try:
            return loss(net, step, rank)
        finally:
            handle.remove()

    return replace(setting, loss=halfway)


@case("an exception halfway through backward, on all ranks", "law, agreement", ("bare", "local"), quick=True)
def exception_on_all(setting: Setting) -> None:
    trial = Trial(stumbling(setting))
    train(trial, 0, 2)
    with _memory(trial), pytest.raises(Stumble):
        trial.step(2, counted=False)
    trial.optimizer.zero_grad()
    well(trial, 3)


@case("the same, and a new hook that goes on from a snapshot", "law, agreement", ("DDP", "FSDP2"))
def exception_and_restart(setting: Setting) -> None:
    trial = Trial(stumbling(setting))
    train(trial, 0, 2)
    with _memory(trial), pytest.raises(Stumble):
        trial.step(2, counted=False)
    trial.setting = setting
    other = trial.resumed(trial.saved())
    other.owed, other.given = trial.owed, trial.given
    trial.close()
    well(other, 3)


# ---- snapshots


def snapshots(setting: Setting, start: Callable[[Callable[[], None]], Callable[[], None]]) -> None:
    """A snapshot at any moment is that of a step, and a second trial that takes none has the same bits."""
    trial, calm = Trial(setting), Trial(setting)
    at: dict[int, dict] = {}
    taken: list[dict] = []
    stop = start(lambda: taken.append(trial.hook.state_dict()))
    try:
        for number in range(8):
            at[trial.hook.step] = trial.hook.state_dict()["memory"]
            trial.step(number)
    finally:
        stop()
    at[trial.hook.step] = trial.hook.state_dict()["memory"]
    train(calm, 0, 8)
    assert taken, "no snapshot was taken"
    if setting.door != "local":  # whose snapshots hold the parameters, which change in between
        assert all(same(at[saved["step"]], saved["memory"]) for saved in taken), "a snapshot is of no step"
    assert all(torch.equal(a, b) for a, b in zip(trial.parts(), calm.parts(), strict=True)), "a snapshot has disturbed"
    assert same(trial.hook.state_dict()["memory"], calm.hook.state_dict()["memory"])
    calm.close()
    agreement(trial)
    law(trial)
    trial.close()


@case("state_dict in another thread all the time, on one rank", "law, agreement", quick=True)
def in_a_thread(setting: Setting) -> None:
    def start(take: Callable[[], None]) -> Callable[[], None]:
        ended = threading.Event()

        def always() -> None:
            while True:
                take()
                if ended.wait(0.002):
                    return

        def stop() -> None:
            ended.set()
            thread.join()

        if dist.get_rank() != 0:
            ended.set()  # one snapshot only
        thread = threading.Thread(target=always)
        thread.start()
        return stop

    snapshots(setting, start)


@case("state_dict in a signal handler, on one rank", "law, agreement")
def in_a_signal(setting: Setting) -> None:
    def start(take: Callable[[], None]) -> Callable[[], None]:
        if dist.get_rank() == 0:
            take()
            return lambda: None
        before = signal.signal(signal.SIGALRM, lambda *_: take())
        signal.setitimer(signal.ITIMER_REAL, 0.004, 0.02)
        take()

        def stop() -> None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

        return stop

    snapshots(setting, start)


@case("state_dict halfway through backward, on all ranks", "law, agreement")
def in_backward(setting: Setting) -> None:
    takes: list[Callable[[], None]] = []

    def halfway(net: nn.Module, step: int, rank: int) -> Tensor:
        def act(_: Tensor) -> None:
            for take in takes:
                take()

        value = loss(net, step, rank)
        value.register_hook(act)
        return value

    def start(take: Callable[[], None]) -> Callable[[], None]:
        takes.append(take)
        return takes.clear

    snapshots(replace(setting, loss=halfway), start)


# ---- checkpoints


def spoilt(saved: dict, trial: Trial) -> dict[str, dict]:
    """Make checkpoints that no run has written."""
    memory = saved["memory"]
    name = list(memory)[-1]
    first = next(iter(memory[name]), None)
    bad: dict[str, Any] = {
        "a parameter is missing": {**saved, "memory": {key: memory[key] for key in list(memory)[:-1]}},
        "a parameter too many": {**saved, "memory": {**memory, "stranger": {}}},
        "a part is missing": {key: value for key, value in saved.items() if key != "seed"},
        "another exchange": {**saved, "exchange": "EF(TopK(density=0.5))"},
        "an exchange of a megabyte": {**saved, "exchange": "ef(" * 300_000},
        "a format of the future": {**saved, "format": 2},
        "a step below zero": {**saved, "step": -1},
        "a step of text": {**saved, "step": "3"},
        "a seed of nothing": {**saved, "seed": None},
        "another rank": {**saved, "rank": saved["rank"] + 1},
        "memory of nothing": {**saved, "memory": None},
        "a list": [saved],
        "nothing": None,
        "empty": {},
    }
    if first is not None:
        values = memory[name][first]
        for what, wrong in {
            "not finite": torch.full_like(values, float("nan")),
            "another shape": torch.zeros(7),
            "whole numbers": torch.zeros(values.shape, dtype=torch.int64),
            "no tensor": values.tolist(),
            "a meta tensor": values.to("meta"),
            "sparse": values.reshape(1, -1).to_sparse(),
            "complex": values.to(torch.complex64),
        }.items():
            bad[what] = {**saved, "memory": {**memory, name: {**memory[name], first: wrong}}}
    if trial.setting.door == "local":
        for what, wrong in {"no position": None, "odd position": {**saved["local"], "settled": [-1]}}.items():
            bad[what] = {**saved, "local": wrong}
    return bad


@case("truncated, flipped, foreign and hostile checkpoints, on one rank", "agreement, law, resume", quick=True)
def hostile(setting: Setting) -> None:
    trial = Trial(setting)
    train(trial, 0, 2)
    saved = trial.hook.state_dict()
    train(trial, 2, 4)
    for what, bad in spoilt(saved, trial).items():
        given = bad if dist.get_rank() == 1 else saved
        with unchanged(trial):
            words = refused(lambda given=given: trial.hook.load_state_dict(given))
        assert len(words) < 2000, f"{what}: refused in {len(words)} letters"
    train(trial, 4, 6)
    resume(trial, 6)
    agreement(trial)
    law(trial)
    trial.close()


@case("checkpoints of different steps", "agreement, law")
def different_steps(setting: Setting) -> None:
    trial = Trial(setting)
    saved = []
    for number in (0, 2):
        train(trial, number, number + 2)
        saved.append(trial.hook.state_dict())
    with unchanged(trial):
        refused(lambda: trial.hook.load_state_dict(saved[dist.get_rank() % 2]))
    well(trial, 4)


@case("a checkpoint that needs a gradient, on one rank", "agreement, resume", quick=True)
def needs_gradient(setting: Setting) -> None:
    trial = Trial(setting)
    train(trial, 0, 4)
    saved = trial.hook.state_dict()
    if dist.get_rank() == 1:
        for parts in saved["memory"].values():
            for value in parts.values():
                value.requires_grad_()
    trial.hook.load_state_dict(saved)
    state = trial.hook.state_dict()
    assert same(state["memory"], saved["memory"])
    assert not any(value.requires_grad for parts in state["memory"].values() for value in parts.values())
    resume(trial, 4)
    agreement(trial)
    trial.close()


# ---- settings


@case("mismatched specs, seeds and settings", "end, nothing left", quick=True)
def mismatched(setting: Setting) -> None:
    rank = dist.get_rank()
    Trial(setting).close()  # what torch itself starts once is there
    wrong: list[Setting] = [
        replace(setting, spec="ef(topk(density=0.3))" if rank == 1 else setting.spec),
        replace(setting, options={"seed": rank}),
        replace(setting, options={"bucket_mb": 1.0 if rank == 1 else CAP}),
    ]
    if setting.door != "local":
        wrong += [
            replace(setting, options={"reduce": "sum" if rank == 1 else "mean"}),
            replace(setting, options={"scaler": torch.amp.GradScaler("cpu") if rank == 1 else None}),
            replace(setting, options={"lr": (lambda: 0.1) if rank == 1 else None}),
        ]
    with nothing_left():
        for each in wrong:
            refused(lambda each=each: Trial(each))
    well(Trial(setting), 0)


@case("nonsense on all ranks", "end, nothing left")
def nonsense(setting: Setting) -> None:
    Trial(setting).close()
    with nothing_left():
        for spec in ("ef(", "tokp(0.1)", "ef(topk(density=0))", "ef(topk(density=2))", "", "1/0", "__import__('os')"):
            refused(lambda spec=spec: Trial(replace(setting, spec=spec)))
        for options in ({"bucket_mb": 0}, {"bucket_mb": -1.0}, {"seed": 0.5}, {"seed": True}):
            refused(lambda options=options: Trial(replace(setting, options=options)), ValueError, TypeError)
    well(Trial(setting), 0)


# ---- ends


@case("attach and close, five times", "nothing left", quick=True)
def again_and_again(setting: Setting) -> None:
    def once() -> None:
        trial = Trial(setting)
        train(trial, 0, 2)
        trial.close()
        trial.close()

    once()
    with nothing_left():
        for _ in range(5):
            once()


@case("close before the first step, and twice", "law, agreement")
def closed_at_once(setting: Setting) -> None:
    trial = Trial(setting)
    trial.close()
    trial.close()
    trial.hook.state_dict()
    well(Trial(setting), 0)


@case("close between forward and backward", "end", ("DDP", "bare", "FSDP2"))
def closed_halfway(setting: Setting) -> None:
    trial = Trial(setting)
    train(trial, 0, 2)
    value = setting.loss(trial.forward, 2, trial.rank)
    trial.close()
    with suppress(RuntimeError):  # DDP cannot go on without the hook; the bare module is its user's again
        value.backward()
    trial.hook.state_dict()
    well(Trial(setting), 0)


@case("fork while training", "law, agreement", quick=True)
def forked(setting: Setting) -> None:
    trial = Trial(setting)
    train(trial, 0, 2)
    child = os.fork()
    if child == 0:
        os._exit(0)
    train(trial, 2, 4)
    assert os.waitpid(child, 0)[1] == 0
    well(trial, 4)


@case("resume from a file", "resume, law, agreement", quick=True)
def resumes(setting: Setting) -> None:
    trial = Trial(setting)
    train(trial, 0, 3)
    resume(trial, 3)
    agreement(trial)
    law(trial)
    trial.close()


# ---- parameters


class Oddities(nn.Module):
    """A net with parameters that are unused by turns, frozen, tied, empty and scalar."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(5, 20), nn.Linear(20, 2)
        self.a, self.b, self.tied, self.frozen = (nn.Linear(20, 20) for _ in range(4))
        self.frozen.requires_grad_(False)
        self.tied.weight = self.a.weight

    def forward(self, x: Tensor, which: int) -> Tensor:
        hidden = self.frozen(self.first(x)).tanh()
        return self.last(self.tied((self.b if which else self.a)(hidden)).tanh())


def by_turns(net: nn.Module, step: int, rank: int) -> Tensor:
    return (net(batch(step, rank), step % 2) - rank).square().mean()


def by_rank(net: nn.Module, step: int, rank: int) -> Tensor:
    return (net(batch(step, rank), (step + rank) % 2) - rank).square().mean()


@case("frozen, tied and, by turns, unused parameters", "law, agreement, resume", quick=True)
def odd_parameters(setting: Setting) -> None:
    trial = Trial(replace(setting, make=Oddities, loss=by_turns, unused=True))
    train(trial, 0, 4)
    resume(trial, 4)
    well(trial, 7)


@case("parameters unused on some ranks only", "law, agreement", ("DDP", "bare", "local"))
def unused_on_some(setting: Setting) -> None:
    well(Trial(replace(setting, make=Oddities, loss=by_rank, unused=True)), 0)


@case("an empty and a scalar parameter", "law, agreement", ("DDP", "bare", "local"))
def empty_and_scalar(setting: Setting) -> None:
    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model()
            self.scale, self.empty = nn.Parameter(torch.ones(())), nn.Parameter(torch.empty(0))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) * self.scale + self.empty.sum()

    well(Trial(replace(setting, make=Tiny)), 0)


@case("a parameter unfrozen after attach", "end", ("DDP", "bare"))
def unfrozen(setting: Setting) -> None:
    def half_frozen() -> nn.Module:
        net = model()
        net[0].weight.requires_grad_(False)
        return net

    trial = Trial(replace(setting, make=half_frozen))
    train(trial, 0, 2)
    trial.net[0].weight.requires_grad_(True)
    with suppress(RuntimeError, ValueError):
        loss(trial.forward, 2, trial.rank).backward()
    trial.close()


@case("parameters of float32 and float64", "law, agreement", ("DDP", "bare", "local"))
def mixed(setting: Setting) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = model(), model(seed=1).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + self.other(x.double()).float()

    well(Trial(replace(setting, make=Mixed)), 0)
