"""The functions that ranks run in the stories of doors: a bare module compared with DDP, and snapshots
at any moment.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import assert_equal_on_all_ranks, batch, loss, main, model, one_by_one, roundtrip
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import gradwire as gw

CAP = 0.004
GOLDEN = Path(__file__).parent / "golden"
SPECS = (
    "mean",
    "ef(topk(density=0.1))",
    "ef(deft(density=0.1))",
    "diana(randk(density=0.2))",
    "ef(uniontopk(density=0.1))",
)


def pair(make: Callable[[], nn.Module], spec: str, **options: object) -> tuple[list[nn.Module], list[nn.Module], list]:
    """Make two equal models, one in DDP and one bare. Returns the callables, the models themselves, and the hooks."""
    nets = [make(), make()]
    ddp = DistributedDataParallel(nets[0], bucket_cap_mb=CAP, find_unused_parameters=bool(options))
    hooks = [gw.attach(ddp, spec, seed=5, bucket_mb=CAP), gw.attach(nets[1], spec, seed=5, bucket_mb=CAP, **options)]
    assert [layout.names for layout in hooks[0].layouts] == [layout.names for layout in hooks[1].layouts]
    assert len(hooks[0].layouts) >= 2
    return [ddp, nets[1]], nets, hooks


def same_memory(a: dict, b: dict) -> bool:
    return all(torch.equal(part, b[name][path]) for name, parts in a.items() for path, part in parts.items())


def bare_equals_ddp() -> None:
    """In twenty steps of two micro-batches gradients, memories, steps and bytes are equal, bit for bit."""
    rank = dist.get_rank()
    for spec in SPECS:
        runs, nets, hooks = pair(model, spec)
        optimizers = [torch.optim.AdamW(net.parameters(), lr=0.01) for net in nets]
        for step in range(20):
            for run, net, hook, optimizer in zip(runs, nets, hooks, optimizers, strict=True):
                for micro in range(2):
                    with hook.no_sync() if micro == 0 else nullcontext():
                        loss(run, 2 * step + micro, rank).backward()
                # Means are there when backward returns: all ranks clip by one norm.
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=step % 2 == 0)
            assert all(torch.equal(a, b) for a, b in zip(*(net.parameters() for net in nets), strict=True)), (
                spec,
                step,
            )
        assert_equal_on_all_ranks(nets[1])
        saved = [hook.state_dict() for hook in hooks]
        assert same_memory(saved[0]["memory"], saved[1]["memory"])
        assert hooks[0].step == hooks[1].step == 20
        assert hooks[0].ledger.bytes == hooks[1].ledger.bytes
        hooks[1].load_state_dict(roundtrip(saved[0], rank))  # one checkpoint, whatever the door
        for hook in hooks:
            hook.close()


class Branches(nn.Module):
    """A net that uses one of two branches, one weight twice, and a convolution whose weight is channels-last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)
        self.a, self.b, self.shared = nn.Linear(5, 200), nn.Linear(5, 200), nn.Linear(200, 200)
        self.scale, self.empty = nn.Parameter(torch.ones(())), nn.Parameter(torch.empty(0))

    def forward(self, x: Tensor, which: int) -> Tensor:
        hidden = self.conv(x.contiguous(memory_format=torch.channels_last)).mean((-1, -2))
        hidden = (self.b if which else self.a)(hidden)
        return self.shared(self.shared(hidden).tanh()) * self.scale + self.empty.sum()


def bare_odd_parameters(find_unused: str) -> None:
    """Unused, tied, empty, scalar and channels-last parameters have equal bits with DDP, and every unit is exchanged
    once.

    All ranks use the same branch for four steps, and then different ones, so units fill in a different order on each
    rank.
    """
    rank, early = dist.get_rank(), find_unused == "early"
    for spec in ("mean", "ef(topk(density=0.2))", "diana(randk(density=0.2))"):
        runs, nets, hooks = pair(Branches, spec, find_unused_parameters=early) if early else late_pair(spec)
        optimizers = [torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9) for net in nets]
        for step in range(8):
            x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(step * 10 + rank))
            for run, optimizer in zip(runs, optimizers, strict=True):
                run(x, (step + rank * (step >= 4)) % 2).square().sum().backward()
                optimizer.step()
                optimizer.zero_grad()
            assert all(torch.equal(a, b) for a, b in zip(*(net.parameters() for net in nets), strict=True)), (
                spec,
                step,
            )
            assert hooks[0].step == hooks[1].step == step + 1
        assert_equal_on_all_ranks(nets[1])
        for hook in hooks:
            hook.close()


def late_pair(spec: str) -> tuple[list[nn.Module], list[nn.Module], list]:
    """Make a bare module without find_unused_parameters, whose passes end at the optimizer's step."""
    nets = [Branches(), Branches()]
    ddp = DistributedDataParallel(nets[0], bucket_cap_mb=CAP, find_unused_parameters=True)
    hooks = [gw.attach(ddp, spec, seed=5, bucket_mb=CAP), gw.attach(nets[1], spec, seed=5, bucket_mb=CAP)]
    return [ddp, nets[1]], nets, hooks


def bare_checkpointed(reentrant: str) -> None:
    """Both kinds of activation checkpoints work; a reentrant one runs backward passes inside the backward pass."""
    rank = dist.get_rank()

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model()

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.net[:2](x)
            hidden = checkpoint(self.net[2:6], hidden, use_reentrant=reentrant == "yes")
            return self.net[6:](hidden)

    runs, nets, hooks = pair(Checkpointed, "ef(topk(density=0.1))")
    for step in range(6):
        for run in runs:
            (run(batch(step, rank)) - rank).square().mean().backward()
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(*(net.parameters() for net in nets), strict=True))
        for net in nets:
            net.zero_grad()
    assert hooks[1].step == 6
    for hook in hooks:
        hook.close()


def bare_refusals() -> None:
    """What cannot be right is an error in one sentence on every rank, and no rank hangs."""
    rank = dist.get_rank()
    torch.manual_seed(rank)
    net = nn.Sequential(nn.Linear(5, 30), nn.Linear(30, 30))
    hook = gw.attach(net, "mean")
    assert_equal_on_all_ranks(net)  # as DDP does, all start with rank 0's parameters
    counters(net, hook, rank)
    hook.close()
    assert repr(hook).endswith(", closed>")
    x = batch(0, rank)
    net(x).sum().backward()  # closed: the module is its user's again

    partly = model()
    hook = gw.attach(partly, "ef(topk(density=0.1))")
    partly[:2](x).sum().backward()
    with pytest.raises(RuntimeError, match="got a second gradient before the optimizer's step"):
        partly[:2](x).sum().backward()
    hook.close()

    late = Late()
    hook = gw.attach(late, "mean", find_unused_parameters=True)
    with pytest.raises(RuntimeError, match=r"came after the others were exchanged: .* use_reentrant=False"):
        late(x).sum().backward()
    hook.close()
    ddp = DistributedDataParallel(model())
    for wrong, words in (
        ({"group": dist.group.WORLD}, "brings its own group"),
        ({"bucket_mb": 0}, "must be positive"),
        ({"bucket_mb": "1"}, "bucket_mb is a number of megabytes, got '1'"),
        ({"lr": 0.1}, "lr takes a function that returns the step's learning rate, .*, got 0.1"),
        ({"scaler": 5}, r"scaler takes a GradScaler, .*, got 5"),
        ({"exchange": "ef(topk(density=0.1), lr_in_memory=true)"}, "lr_in_memory needs the step's learning rate"),
        ({"exchange": "diana(permk(workers=4))"}, "divides the coordinates among 4 workers, and this run has 2"),
    ):
        for net in (model(), ddp)[wrong.keys() == {"group"} :]:
            with pytest.raises((TypeError, ValueError), match=words):
                gw.attach(net, **{"exchange": "mean", **wrong})
    with pytest.raises(ValueError, match="among 4 workers, and this run has 2"):
        gw.local(partly, torch.optim.SGD(partly.parameters(), lr=0.1), exchange="diana(permk(workers=4))")
    for options in ({"bucket_mb": "1"}, {"lr": 0.1}, {"scaler": 5}):
        with pytest.raises(TypeError):
            gw.attach(ddp, "auto", **options)
    forgotten_scaler(rank)
    huge_gradients(rank)
    with pytest.raises(TypeError, match="'auto' takes a model wrapped in DistributedDataParallel, got Sequential"):
        gw.attach(model(), "auto")


class Writer:
    """A writer that takes scalars in one of the ways of common libraries."""

    def __init__(self, way: str) -> None:
        self.rows: list[object] = []
        setattr(self, way, lambda *words, **named: self.rows.append((words, named)))


def counters(net: nn.Module, hook: gw.Hook, rank: int) -> None:
    """The ratio is counted, the repr is informative, and three kinds of writers get scalars until the
    hook is closed.
    """
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    writers = {way: Writer(way) for way in ("add_scalar", "log_metrics", "log")}
    assert math.isnan(hook.ledger.ratio)
    for writer in writers.values():
        hook.log_to(writer, every=2)
    with pytest.raises(TypeError, match="log_to takes a writer with add_scalar, log_metrics or log, got 3"):
        hook.log_to(3)
    for step in range(5):
        loss(net, step, rank).backward()
        optimizer.step()
    nbytes = sum(param.nbytes for param in net.parameters())
    assert hook.ledger.dense == 5 * nbytes
    assert hook.ledger.ratio == 5 * nbytes / hook.ledger.bytes
    assert repr(hook).startswith(f"<Hook: mean, rank {rank} of 2, step 5, 0 skipped, ")
    (words, named), *_ = writers["log_metrics"].rows
    assert named == {"step": 2}
    assert words[0]["gradwire/megabytes_dense"] == 2 * nbytes / 1e6
    assert len(writers["log"].rows) == len(writers["log_metrics"].rows) == 2
    assert ("gradwire/step", 4.0, 4) in [words for words, _ in writers["add_scalar"].rows]


def huge_gradients(rank: int) -> None:
    """Near the end of float32's range a step either has a finite mean, or counts as not finite and leaves no trace in
    memory.
    """
    skipped = {}
    for spec in (
        "mean",
        "ef(topk(density=0.1))",
        "ef(deft(density=0.1))",
        "ef(uniontopk(density=0.1))",
        "diana(natural)",
        "ef21(topk(density=0.1))",
        "ef(powersgd(rank=2))",
    ):
        net = model()
        with gw.attach(net, spec) as hook:
            for factor in (1.0, 3.3e38, 1.0):
                before = hook.state_dict()["memory"]
                net.zero_grad()
                sum((param * (factor * (1.0 + rank / 50))).sum() for param in net.parameters()).backward()
                after = hook.state_dict()["memory"]
                finite = all(param.grad.isfinite().all() for param in net.parameters())
                assert finite or same_memory(before, after), spec
                assert all(part.isfinite().all() for parts in after.values() for part in parts.values()), spec
            assert finite, spec
            assert hook.step == 3
            skipped[spec] = hook.skipped
    assert skipped["diana(natural)"] == skipped["ef(uniontopk(density=0.1))"] == 1


def forgotten_scaler(rank: int) -> None:
    """If the exchange has a memory, a GradScaler that attach was not given is an error at its first step."""
    for spec, enabled, refused in (
        ("ef(topk(density=0.1))", True, True),
        ("mean", True, False),
        ("ef21(topk(density=0.1))", False, False),
    ):
        for wrap in (DistributedDataParallel, lambda net: net):
            net, scaler = model(), torch.amp.GradScaler("cpu", enabled=enabled)
            optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
            run, before = wrap(net), net[0].weight.detach().clone()
            with gw.attach(run, spec):
                scaler.scale(loss(run, 0, rank)).backward()
                if refused:
                    with pytest.raises(RuntimeError, match=r"was not given it, .*: attach\(\.\.\., scaler=scaler\)"):
                        scaler.step(optimizer)
                else:
                    scaler.step(optimizer)
            assert torch.equal(before, net[0].weight) == refused


class Late(nn.Module):
    """A net in which a reentrant checkpoint's backward pass ends before the first layer has its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 30), nn.Linear(30, 30)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.second, self.first(x), use_reentrant=True)


@contextmanager
def in_the_middle(net: nn.Sequential, hook: gw.Hook, act: Callable[[], None]) -> Iterator[None]:
    """Act during a backward pass, when at least one unit has been exchanged and at least one has not."""

    def wait_and_act(gradient: Tensor) -> None:
        # Wait for the exchange of the last layers, which this rank's peers are in as well.
        before, deadline = hook.ledger.bytes, time.monotonic() + 20
        while hook.ledger.bytes == start and hook.ledger.bytes == before and time.monotonic() < deadline:
            time.sleep(0.001)
        act()

    start = hook.ledger.bytes
    handle = net[0].weight.register_hook(wait_and_act)
    try:
        yield
    finally:
        handle.remove()


def snapshots(who: str, how: str) -> None:
    """A state taken during backward is that of the step before, and taking it changes no bit afterwards."""
    rank = dist.get_rank()
    one_by_one()
    for spec in ("ef(topk(density=0.05))", "diana(natural)", "ef(micro(density=0.05))"):
        nets = [model(), model()]
        doors = [
            DistributedDataParallel(nets[0], bucket_cap_mb=CAP),
            DistributedDataParallel(nets[1], bucket_cap_mb=CAP),
        ]
        hooks = [gw.attach(door, spec, seed=2) for door in doors]
        for step in range(8):
            before, taken = hooks[1].state_dict(), []
            acts = (who == "all" or rank == 0) and step % 2 == 1
            for net, door, hook in zip(nets, doors, hooks, strict=True):
                net.zero_grad()
                disturbed = acts and hook is hooks[1]
                take = taker(how, hook, taken)
                with in_the_middle(net, hook, take) if disturbed else nullcontext():
                    loss(door, step, rank).backward()
            assert len(taken) == acts
            for saved in taken:
                assert saved["step"] == before["step"] == step
                assert same_memory(before["memory"], saved["memory"]), (spec, step)
            assert all(torch.equal(a.grad, b.grad) for a, b in zip(*(net.parameters() for net in nets), strict=True))
            after = [hook.state_dict() for hook in hooks]
            assert same_memory(after[0]["memory"], after[1]["memory"]), (spec, step)
            assert not same_memory(before["memory"], after[1]["memory"])
            assert hooks[0].ledger.bytes == hooks[1].ledger.bytes
        for hook in hooks:
            hook.close()


def taker(how: str, hook: gw.Hook, taken: list[dict]) -> Callable[[], None]:
    """Return a function that takes a snapshot here, in another thread, or in a signal handler."""

    def here() -> None:
        taken.append(hook.state_dict())

    def elsewhere() -> None:
        thread = threading.Thread(target=here)
        thread.start()
        thread.join()

    def handled() -> None:
        signal.signal(signal.SIGUSR1, lambda *_: here())
        signal.raise_signal(signal.SIGUSR1)

    return {"here": here, "thread": elsewhere, "signal": handled}[how]


def loading_is_whole_or_nothing() -> None:
    """A checkpoint that cannot be read on one rank changes nothing on any; a valid one is read on all."""
    rank = dist.get_rank()
    one_by_one()
    ddp = DistributedDataParallel(model(), bucket_cap_mb=CAP)
    hook = gw.attach(ddp, "ef(topk(density=0.1))")
    saved = []
    for step in range(3):
        loss(ddp, step, rank).backward()
        saved.append(hook.state_dict())
    name = hook.layouts[-1].names[-1]  # of the last unit: the others would be overwritten by then

    class Unreadable(Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if getattr(function, "__name__", "") in ("detach", "copy_"):
                raise RuntimeError("the disk is gone")
            return super().__torch_function__(function, types, args, kwargs or {})

    good = saved[1]["memory"][name]["error"]
    bad = good.clone().as_subclass(Unreadable) if rank == 1 else good
    with pytest.raises(ValueError, match="cannot be read: the disk is gone" if rank == 1 else "rank 1 has refused"):
        hook.load_state_dict({**saved[1], "memory": {**saved[1]["memory"], name: {"error": bad}}})
    now = hook.state_dict()
    assert now["step"] == hook.step == 3
    assert same_memory(now["memory"], saved[2]["memory"])
    needs_grad = good.clone().requires_grad_(rank == 1)
    hook.load_state_dict({**saved[1], "memory": {**saved[1]["memory"], name: {"error": needs_grad}}})
    assert hook.step == 2
    assert same_memory(hook.state_dict()["memory"], saved[1]["memory"])
    assert not any(part.requires_grad for parts in hook.state_dict()["memory"].values() for part in parts.values())

    def load() -> None:
        hook.load_state_dict(saved[0])

    with pytest.raises(RuntimeError, match="load_state_dict"), in_the_middle(ddp.module, hook, load):
        loss(ddp, 3, rank).backward()  # what is left of this pass must not reach the new memory
    assert hook.step == 1
    assert same_memory(hook.state_dict()["memory"], saved[0]["memory"])
    loss(ddp, 1, rank).backward()
    assert hook.step == 2
    hook.close()


def old_checkpoints() -> None:
    """Checkpoints written before parts and asks were renamed load and continue as they did.

    They agree up to rounding, because another processor adds up the products of a layer in another order.
    """
    rank = dist.get_rank()
    saved = torch.load(GOLDEN / f"hook-format-1-rank{rank}.pt", weights_only=True)
    for spec, run in saved.items():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))
        ddp = DistributedDataParallel(net)
        hook = gw.attach(ddp, spec.replace("ramp(", "warmup("), bucket_mb=0.0002)
        hook.load_state_dict(run["checkpoint"])
        assert (hook.step, hook.seed) == (3, 4)
        loss(ddp, 3, rank).backward()
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(parameter.grad, run["mean"][name], rtol=1e-5, atol=1e-7, msg=f"{spec} {name}")
        hook.close()


@contextmanager
def warnings_of(module: str) -> Iterator[list[str]]:
    """Collect what a module logs."""
    words: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: words.append(record.getMessage())
    logging.getLogger(module).addHandler(handler)
    yield words
    logging.getLogger(module).removeHandler(handler)


def ddp_corners() -> None:
    """Test a compiled wrapper, the Python reducer, gradients that DDP does not exchange, and uneven
    numbers of batches.
    """
    rank = dist.get_rank()
    compiled = torch.compile(DistributedDataParallel(model()), backend="eager")
    with gw.attach(compiled, "ef(topk(density=0.1))") as hook:
        loss(compiled, 0, rank).backward()
        assert hook.step == 1
    with gw.attach(DistributedDataParallel(torch.compile(model(), backend="eager")), "mean") as hook:
        assert {name for layout in hook.layouts for name in layout.names} == set(dict(model().named_parameters()))

    mode, torch._dynamo.config.optimize_ddp = torch._dynamo.config.optimize_ddp, "python_reducer"
    with pytest.raises(ValueError, match="'python_reducer', which hands a hook no buckets"):
        gw.attach(DistributedDataParallel(model()), "mean")
    torch._dynamo.config.optimize_ddp = mode

    said = "steps on gradients of a backward pass that DDP has not exchanged"
    for passes, warned in ((ordinary, False), (two_and_two, True), (twice_through, True)):
        net = model()
        ddp = DistributedDataParallel(net, bucket_cap_mb=CAP)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        with gw.attach(ddp, "ef(topk(density=0.1))"), warnings_of("gradwire") as words:
            for step in range(3):
                passes(ddp, step, rank)
                optimizer.step()
                optimizer.zero_grad()
            assert sum(said in each for each in words) == warned, (passes.__name__, words)

    for opens in (opens_ddp, opens_bare, opens_local):
        nothing_stays(opens, rank)

    ddp = DistributedDataParallel(model(), bucket_cap_mb=CAP)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.01)
    with gw.attach(ddp, "ef(topk(density=0.1))") as hook:
        with ddp.join():
            for step in range(5 if rank == 0 else 3):
                loss(ddp, step, rank).backward()
                optimizer.step()
                optimizer.zero_grad()
        assert hook.step == 5  # who has ended takes part with gradients of zero, and memories go on
        assert_equal_on_all_ranks(ddp.module)


def opens_ddp(net: nn.Module) -> tuple[nn.Module, object]:
    ddp = DistributedDataParallel(net)
    return ddp, gw.attach(ddp, "mean")


def opens_bare(net: nn.Module) -> tuple[nn.Module, object]:
    return net, gw.attach(net, "mean")


def opens_local(net: nn.Module) -> tuple[nn.Module, object]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    return net, (gw.local(net, optimizer, every=2), optimizer)


def nothing_stays(opens: Callable[[nn.Module], tuple[nn.Module, object]], rank: int) -> None:
    """A hook that was never closed gives back its descriptors and threads when its model is deleted."""
    baseline = None
    for _ in range(3):
        run, hook = opens(model())
        loss(run, 0, rank).backward()
        opened = held()
        if baseline is None:
            (hook[0] if isinstance(hook, tuple) else hook).close()
        del run, hook
        gc.collect()
        baseline, end = baseline or held(), time.monotonic() + 60
        assert baseline < opened
        while held() > baseline and time.monotonic() < end:
            time.sleep(0.01)
            gc.collect()
        assert held() <= baseline, (opens.__name__, baseline, held())
        dist.barrier()


def held() -> tuple[int, int]:
    """Count the descriptors and threads of this process."""
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def ordinary(ddp: nn.Module, step: int, rank: int) -> None:
    """Test accumulation, and two forward passes before one joint backward pass."""
    with ddp.no_sync():
        loss(ddp, step, rank).backward()
    (loss(ddp, step, rank) + loss(ddp, step + 9, rank)).backward()


def two_and_two(ddp: nn.Module, step: int, rank: int) -> None:
    one, other = loss(ddp, step, rank), loss(ddp, step + 9, rank)
    one.backward()
    other.backward()


def twice_through(ddp: nn.Module, step: int, rank: int) -> None:
    one = loss(ddp, step, rank)
    one.backward(retain_graph=True)
    one.backward()


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
