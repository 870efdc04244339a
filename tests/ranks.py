"""The functions that ranks run in the stories: `python ranks.py NAME [ARGUMENT]`, started by `story.play`.

Each function is the whole program of one rank: it asserts, and prints its result for the test as one JSON line.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import zoo
from rank_asks import answers_of_every_dtype, groups_answer, guards_apart  # noqa: F401 - lives, found by their names
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import gradwire as gw
from gradwire.advice.rounds import LocalRound
from gradwire.engine import bundles
from gradwire.engine.session import COMMON_TERMS
from gradwire.exchange import divide_budget

STEPS, RESUMED_AT = 14, 8


def model(width: int = 30, depth: int = 3, seed: int = 0) -> nn.Sequential:
    """Make a small net; with a width of 30 it has about 11 kB of parameters."""
    torch.manual_seed(seed)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(nn.Linear(5, width), nn.Tanh(), *layers, nn.Linear(width, 2))


def batch(step: int, rank: int) -> Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(1000 * step + rank))


def loss(net: nn.Module, step: int, rank: int) -> Tensor:
    return (net(batch(step, rank)) - rank).square().mean()


def local_gradients(net: nn.Module, layout: gw.Layout, step: int, ranks: int) -> Tensor:
    """Return f[n, d], every rank's gradient, laid out like a unit."""
    parameters = dict(net.named_parameters())
    rows = []
    for rank in range(ranks):
        found = torch.autograd.grad(loss(net, step, rank), [parameters[name] for name in layout.names])
        rows.append(torch.cat([gradient.flatten() for gradient in found]))
    return torch.stack(rows)


def point(net: nn.Module, layout: gw.Layout) -> Tensor:
    """Return f[d], the parameters, laid out like a unit."""
    parameters = dict(net.named_parameters())
    return torch.cat([parameters[name].detach().flatten() for name in layout.names])


def gradient(net: nn.Module, layout: gw.Layout) -> Tensor:
    parameters = dict(net.named_parameters())
    return torch.cat([parameters[name].grad.flatten() for name in layout.names])


def equals_lockstep(*specs: str) -> dict[str, float]:
    """Train with these compositions, or all, with a checkpoint in the middle. Returns the largest differences to the
    simulator.

    Only rank 0 simulates and compares; the others train.
    """
    rank, ranks = dist.get_rank(), dist.get_world_size()
    worst = {}
    for spec in specs or zoo.TRAINED:
        net = model()
        ddp, hook, sims = None, None, None
        difference = 0.0
        for step in range(STEPS):
            if step in (0, RESUMED_AT):  # a new process would do the same: new DDP, new hook, state from bytes
                saved = None if hook is None else roundtrip(hook.state_dict(), rank)
                if hook is not None:
                    hook.close()
                ddp = DistributedDataParallel(net, bucket_cap_mb=0.004)
                hook = gw.attach(ddp, spec, seed=11)
                assert len(hook.layouts) >= 3
                if saved is not None:
                    hook.load_state_dict(saved)
                sims = sims or [gw.Simulator(spec, layout, ranks, seed=11) for layout in hook.layouts if rank == 0]
            shares = divide_budget({sim.layout: sim.state[0] if sim.state else {} for sim in sims})
            wanted = [
                sim.step(
                    local_gradients(net, sim.layout, step, ranks), point(net, sim.layout), budget=shares[sim.layout]
                ).mean
                for sim in sims
            ]
            net.zero_grad()
            loss(ddp, step, rank).backward()
            for sim, mean in zip(sims, wanted, strict=True):
                difference = max(difference, (gradient(net, sim.layout) - mean).abs().max().item())
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter -= 0.05 * parameter.grad
        assert hook.step == STEPS
        worst[spec] = difference
        hook.close()
    return worst


def roundtrip(saved: dict, rank: int) -> dict:
    """Save to a file and load again, as users do."""
    file = Path(os.environ["STORY_FOLDER"], f"hook{rank}.pt")
    torch.save(saved, file)
    return torch.load(file, weights_only=True)


def resume_is_bit_equal(*specs: str) -> dict[str, bool]:
    """Twenty steps without a break equal ten, a restart of everything, and ten more."""
    rank = dist.get_rank()

    def train(spec: str, legs: list[int]) -> list[Tensor]:
        net, saved, step = model(), None, 0
        for leg in legs:
            ddp = DistributedDataParallel(net, bucket_cap_mb=0.004)
            hook = gw.attach(ddp, spec, seed=3)
            optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
            if saved:
                hook.load_state_dict(saved[0])
                optimizer.load_state_dict(saved[1])
            for _ in range(leg):
                optimizer.zero_grad()
                loss(ddp, step, rank).backward()
                optimizer.step()
                step += 1
            saved = (roundtrip(hook.state_dict(), rank), optimizer.state_dict())
            hook.close()
            restarted = model(seed=99)
            restarted.load_state_dict(net.state_dict())
            net = restarted
        return [parameter.detach().clone() for parameter in net.parameters()]

    usual = (
        "ef(deft(density=0.05))",
        "ef(topk(density=0.05))",
        "ef(topk(density=0.05, values='bits2'), dtype='bfloat16')",
        "diana(randk(density=0.2))",
        "randdiana(natural, p=0.3)",
    )
    return {
        spec: all(torch.equal(a, b) for a, b in zip(train(spec, [20]), train(spec, [10, 10]), strict=True))
        for spec in specs or usual
    }


def many_buckets() -> dict[str, int]:
    """Train 200 steps with 32 units."""
    rank = dist.get_rank()
    net = model(width=16, depth=30)
    ddp = DistributedDataParallel(net, bucket_cap_mb=0.001)
    hook = gw.attach(ddp, "ef(topk(density=0.1))", bucket_mb=0.00104)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for step in range(200):
        optimizer.zero_grad()
        loss(ddp, step, rank).backward()
        optimizer.step()
    assert_equal_on_all_ranks(net)
    hook.close()
    return {"units": len(hook.layouts), "steps": hook.step}


def many_buckets_deft() -> dict[str, int]:
    """Train with the exchange that has the most collectives, with as many units, for fewer steps."""
    rank = dist.get_rank()
    net = model(width=16, depth=30)
    ddp = DistributedDataParallel(net, bucket_cap_mb=0.001)
    hook = gw.attach(ddp, "ef(deft(density=0.1))", bucket_mb=0.00104)
    for step in range(20):
        net.zero_grad()
        loss(ddp, step, rank).backward()
    hook.close()
    return {"units": len(hook.layouts), "steps": hook.step}


def one_by_one() -> None:
    """Exchange units one after the other from now on, as if they were large."""
    bundles.SMALL = 0


def assert_equal_on_all_ranks(net: nn.Module) -> None:
    flat = torch.cat([parameter.detach().flatten() for parameter in net.parameters()])
    every = [torch.empty_like(flat) for _ in range(dist.get_world_size())]
    dist.all_gather(every, flat)
    assert all(torch.equal(other, flat) for other in every)


def lost_rank(how: str) -> None:
    """Rank 1 dies or stops at step 3; the others must end with an error by themselves."""
    rank = dist.get_rank()
    net = model()
    ddp = DistributedDataParallel(net, bucket_cap_mb=0.004)
    gw.attach(ddp, "ef(deft(density=0.1))")
    for step in range(1000):
        if rank == 1 and step == 3:
            if how == "dies":
                os._exit(7)
            os.kill(os.getpid(), signal.SIGSTOP)
        started = time.monotonic()
        try:
            loss(ddp, step, rank).backward()
        except RuntimeError as error:
            print(json.dumps({"error": str(error), "seconds": time.monotonic() - started}), flush=True)
            os._exit(3)


def no_sync_accumulates() -> None:
    """Under no_sync gradients accumulate locally and are exchanged once; steps count synchronisations."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    net = model()
    ddp = DistributedDataParallel(net, bucket_cap_mb=0.004)
    hook = gw.attach(ddp, "mean")
    for round_ in range(3):
        net.zero_grad()
        for micro in range(3):
            with ddp.no_sync() if micro < 2 else nullcontext():
                loss(ddp, 10 * round_ + micro, rank).backward()
        for layout in hook.layouts:
            wanted = sum(local_gradients(net, layout, 10 * round_ + micro, ranks) for micro in range(3)).mean(0)
            torch.testing.assert_close(gradient(net, layout), wanted)
    assert hook.step == 3
    hook.close()


def odd_parameters() -> None:
    """Test unused, frozen, shared, empty and scalar parameters, channels-last weights, and gradients
    as bucket views.
    """
    rank = dist.get_rank()

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
            self.used, self.unused, self.frozen = nn.Linear(8, 8), nn.Linear(4, 4), nn.Linear(8, 8)
            self.again = self.used
            self.scale, self.empty = nn.Parameter(torch.ones(())), nn.Parameter(torch.empty(0))
            self.frozen.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.conv(x.contiguous(memory_format=torch.channels_last)).mean((-1, -2))
            return self.again(self.frozen(self.used(hidden))) * self.scale + self.empty.sum()

    torch.manual_seed(0)
    net, plain = Odd(), Odd()
    plain.load_state_dict(net.state_dict())
    options = {"find_unused_parameters": True, "gradient_as_bucket_view": True, "bucket_cap_mb": 0.0005}
    ddp, reference = DistributedDataParallel(net, **options), DistributedDataParallel(plain, **options)
    hook = gw.attach(ddp, "ef(topk(density=1.0))")
    for step in range(4):
        x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(step * 10 + rank))
        for either in (ddp, reference):
            either.zero_grad()
            either(x).square().sum().backward()
        for (name, ours), (_, theirs) in zip(net.named_parameters(), plain.named_parameters(), strict=True):
            if theirs.grad is None or ours.grad is None:
                assert name.startswith(("unused", "frozen")), name
                continue
            torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    hook.close()


def half_precision() -> None:
    """In a bfloat16 model gradients and means are bfloat16; memories are float32 unless bfloat16 is asked for."""
    rank = dist.get_rank()
    for options, kept in (("", torch.float32), (", dtype='bfloat16'", torch.bfloat16)):
        net = model().bfloat16()
        ddp = DistributedDataParallel(net, bucket_cap_mb=0.004)
        hook = gw.attach(ddp, f"ef(deft(density=0.1){options})")
        for step in range(5):
            net.zero_grad()
            ddp(batch(step, rank).bfloat16()).square().mean().backward()
            assert all(parameter.grad.dtype == torch.bfloat16 for parameter in net.parameters())
        for copy in (True, False):
            for parts in hook.state_dict(copy=copy)["memory"].values():
                assert parts["error"].dtype == kept
        hook.close()


def broken_steps() -> None:
    """An inf on one rank, in one of several units, changes no memory anywhere, and every rank sees it."""
    rank = dist.get_rank()
    half = "ef(deft(density=0.1), dtype='bfloat16')"
    for spec in ("ef(topk(density=0.1))", half, "diana(randk(density=0.1))", "ef21(deft(density=0.1))"):
        net = model()
        ddp = DistributedDataParallel(net, bucket_cap_mb=0.004)
        hook = gw.attach(ddp, spec)
        assert len(hook.layouts) > 2
        for step in range(6):
            before = hook.state_dict()["memory"]
            net.zero_grad()
            out = loss(ddp, step, rank)
            if step % 2 and rank == 1:  # poison the middle layer alone: its gradient, not the loss
                handle = net[4].weight.register_hook(lambda g: torch.full_like(g, float("inf")))
                out.backward()
                handle.remove()
            else:
                out.backward()
            after = hook.state_dict()["memory"]
            same = all(torch.equal(before[n][p], after[n][p]) for n in before for p in before[n])
            assert same == bool(step % 2), (spec, step)
            assert net[4].weight.grad.isfinite().all().item() == (not step % 2)
            assert net[0].weight.grad.isfinite().all()
        assert (hook.step, hook.skipped) == (6, 3)
        hook.close()


def scaled_loss() -> None:
    """Under a GradScaler whose scale changes, memories keep the gradients' true scale."""
    rank = dist.get_rank()
    means = []
    for scales in ([1.0] * 6, [1.0, 1024.0, 1024.0, 64.0, 2.0**15, 2.0]):
        net = model()
        ddp = DistributedDataParallel(net, bucket_cap_mb=0.004)
        scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
        scaler.scale(torch.ones(()))  # a scaler has no scale before its first use
        hook = gw.attach(ddp, "ef(topk(density=0.05))", scaler=scaler)
        for step, scale in enumerate(scales):
            scaler.update(scale)
            net.zero_grad()
            scaler.scale(loss(ddp, step, rank)).backward()
            found = torch.cat([gradient(net, layout) for layout in hook.layouts]) / scale
        means.append(found)
        hook.close()
    assert torch.equal(*means)  # all scales are powers of two


def mismatch() -> dict[str, str]:
    """If ranks attach different things, every rank has an error at once."""
    rank, heard = dist.get_rank(), {}
    net = DistributedDataParallel(model())
    cases = {
        "exchange": lambda: gw.attach(net, f"ef(topk(density=0.{rank + 1}))"),
        "seed": lambda: gw.attach(net, "mean", seed=rank),
        "bucket_mb": lambda: gw.attach(net, "mean", bucket_mb=1 if rank else 0.004),
        "parameters": lambda: gw.attach(model()[: 4 + 2 * rank], "mean"),
        "find_unused_parameters": lambda: gw.attach(model(), "mean", find_unused_parameters=bool(rank)),
        "version of gradwire": lambda: of_another_version(lambda: gw.attach(net, "mean"), rank),
        "use of a scaler": lambda: gw.attach(net, "mean", scaler=torch.amp.GradScaler("cpu") if rank else None),
        "use of lr": lambda: gw.attach(net, "mean", lr=(lambda: 0.1) if rank else None),
    }
    for name, case in cases.items():
        try:
            case()
        except ValueError as error:
            heard[name] = str(error)
    return heard


def of_another_version(call: Callable[[], object], rank: int) -> None:
    """Call a function as if this rank had another version of gradwire."""
    known = dict(COMMON_TERMS)
    COMMON_TERMS["version of gradwire"] += f" {rank}"
    try:
        call()
    finally:
        COMMON_TERMS.update(known)


def unused_keep_their_mass() -> None:
    """What EF sends for branches that are unused on all ranks in a step still reaches the parameters."""
    rank, ranks = dist.get_rank(), dist.get_world_size()

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 9), nn.Linear(5, 9)

        def forward(self, x: Tensor, which: int) -> Tensor:
            return (self.b if which else self.a)(x)

    for to_none in (True, False):
        torch.manual_seed(0)
        net = Branches()
        ddp = DistributedDataParallel(net, find_unused_parameters=True)
        hook = gw.attach(ddp, "ef(topk(density=0.25))")
        given = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
        owed = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
        for step in range(12):
            net.zero_grad(set_to_none=to_none)
            ddp(batch(step, rank), step % 2).square().sum().backward()
            for name, parameter in net.named_parameters():
                given[name] += parameter.grad if parameter.grad is not None else 0
            for other in range(ranks):
                name, part = ("b", net.b) if step % 2 else ("a", net.a)
                found = torch.autograd.grad(part(batch(step, other)).square().sum(), list(part.parameters()))
                for (leaf, _), value in zip(part.named_parameters(), found, strict=True):
                    owed[f"{name}.{leaf}"] += value / ranks
        for name, parts in hook.state_dict()["memory"].items():
            errors = parts["error"].clone()
            dist.all_reduce(errors)
            # float32 sums of a dozen steps with gradients of order ten
            torch.testing.assert_close(given[name] + errors / ranks, owed[name], rtol=1e-4, atol=1e-4)
        hook.close()


def unfrozen() -> None:
    """A parameter that DDP does not know of is an error at the first step; nothing hangs."""
    net = model()
    net[0].weight.requires_grad_(False)
    ddp = DistributedDataParallel(net)
    net[0].weight.requires_grad_(True)
    hook = gw.attach(ddp, "mean")
    with pytest.raises(RuntimeError, match=r"this backward pass ends without 0.weight"):
        loss(ddp, 0, 0).backward()
    hook.close()


def skewed_checkpoints() -> None:
    """Checkpoints of different steps, or one that does not fit on one rank, are refused on all ranks and change
    nothing.
    """
    rank = dist.get_rank()
    ddp = DistributedDataParallel(model())
    hook = gw.attach(ddp, "ef(sharedrandk(density=0.2, unbiased=false))")
    saved = []
    for step in range(3):
        loss(ddp, step, rank).backward()
        saved.append(hook.state_dict())
    broken = {**saved[1], "memory": {**saved[1]["memory"], "0.bias": {"error": None}}}
    for bad in (saved[rank], broken if rank else saved[1], {**saved[1], "step": "x"}, {**saved[1], "memory": None}):
        try:
            hook.load_state_dict(bad)
        except ValueError:
            now = hook.state_dict()
            assert now["step"] == 3
            assert all(torch.equal(now["memory"][n]["error"], saved[2]["memory"][n]["error"]) for n in now["memory"])
        else:
            raise AssertionError
    hook.load_state_dict(saved[1])
    assert hook.step == 2
    hook.close()


def facts_of_two_runs() -> str:
    """One rank loads another run's checkpoint, which is refused in one sentence; then each loads its own."""
    rank = dist.get_rank()
    ddp = DistributedDataParallel(model())
    hook = gw.attach(ddp, "micro(density=0.1)")
    loss(ddp, 0, rank).backward()
    saved = hook.state_dict()
    first = hook.layouts[0].names[0]
    other = {**saved["memory"][first], "unit.threshold": saved["memory"][first]["unit.threshold"] * 2 + rank}
    with pytest.raises(ValueError, match="rank") as refusal:
        hook.load_state_dict({**saved, "memory": {**saved["memory"], first: other}, "checksum": None})
    hook.load_state_dict(saved)
    loss(ddp, 1, rank).backward()
    hook.close()
    return str(refusal.value)


def failing_exchange() -> None:
    """After a failure nothing runs again, and the memory is that of the step before."""
    rank, calls = dist.get_rank(), []

    class Bad(gw.exchange.Mean):
        async def __call__(self, x: Tensor, state: dict, turn: gw.Turn) -> gw.Sent:
            calls.append(turn.step)
            if turn.step == 2:
                raise ValueError("a bad day")
            return await super().__call__(x, state, turn)

    ddp = DistributedDataParallel(model(), bucket_cap_mb=0.004)
    hook = gw.attach(ddp, gw.memory.EF(Bad()))
    for step in range(2):
        loss(ddp, step, rank).backward()
    before = hook.state_dict()
    with pytest.raises(RuntimeError, match="a bad day"):
        loss(ddp, 2, rank).backward()
    assert calls.count(2) == 1
    assert hook.step == 2
    after = hook.state_dict()
    for name, parts in before["memory"].items():
        assert all(torch.equal(part, after["memory"][name][path]) for path, part in parts.items()), name
    with pytest.raises(RuntimeError, match="cannot go on after an earlier failure"):
        hook.engine.contribute([], lambda _: None)  # DDP itself may fail first in another backward pass
    hook.close()


def parts_of_the_world() -> None:
    """Train a model on some of the ranks, and another one after it on the same ranks."""
    rank = dist.get_rank()
    part = dist.new_group([rank], use_local_synchronization=True)
    for spec in ("ef(topk(density=0.1))", "ef(deft(density=0.1))"):
        ddp = DistributedDataParallel(model(), process_group=part)
        hook = gw.attach(ddp, spec)
        loss(ddp, 0, rank).backward()
        assert hook.step == 1
        hook.close()
    dist.barrier()  # rank 0's process keeps the store by which groups are opened


def two_hooks() -> None:
    """Two models with a hook each in one process, as in GANs, have separate threads, groups and orders."""
    rank = dist.get_rank()
    nets = [model(seed=seed) for seed in (0, 1)]
    ddps = [DistributedDataParallel(net, bucket_cap_mb=0.004) for net in nets]
    hooks = [
        gw.attach(ddp, spec) for ddp, spec in zip(ddps, ("ef(deft(density=0.1))", "ef(topk(density=0.1))"), strict=True)
    ]
    for step in range(10):
        sum(loss(ddp, step, rank) for ddp in ddps).backward()
        for net in nets:
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter -= 0.01 * parameter.grad
                    parameter.grad = None
    for net, hook in zip(nets, hooks, strict=True):
        assert_equal_on_all_ranks(net)
        hook.close()


def save_for_merging(folder: str) -> None:
    """Save the checkpoints of every rank."""
    rank = dist.get_rank()
    net = model()
    ddp = DistributedDataParallel(net)
    for name, spec in (("ef", "ef(topk(density=0.1))"), ("diana", "diana(randk(density=0.2))")):
        ddp = DistributedDataParallel(net)
        hook = gw.attach(ddp, spec)
        for step in range(3):
            net.zero_grad()
            loss(ddp, step, rank).backward()
        torch.save(hook.state_dict(), Path(folder, f"{name}{rank}.pt"))
        hook.close()


def auto_stays_dense() -> dict[str, object]:
    """For a model so small that nothing beats dense DDP, the choice is made and logged once."""
    rank, said = dist.get_rank(), logged()
    judge = gw.Auto._judge
    # A dense step of a microsecond: however busy the machine is, nothing is predicted to beat it.
    gw.Auto._judge = lambda self, pace: judge(self, replace(pace, period=1e-6))
    net = model()
    ddp = DistributedDataParallel(net, bucket_cap_mb=0.004)
    auto = gw.attach(ddp, "auto", candidates=["ef(topk(density=0.1))", "identity"])
    assert auto.state_dict()["exchange"] == "auto"
    assert repr(auto).startswith("<Auto: measuring of dense, ef(topk(density=0.1)), identity, rank ")
    rows = list[object]()
    auto.log_to(SimpleNamespace(log=rows.append), every=5)
    for step in range(12):
        net.zero_grad()
        with ddp.no_sync():
            loss(ddp, 100 + step, rank).backward()
        loss(ddp, step, rank).backward()
        assert (auto.choice is None) == (step < 6)
    assert auto.hook is None
    assert repr(auto).startswith("<Auto: dense of dense, ")
    assert not rows  # nothing compresses, so nothing counts
    assert auto.step == auto.ledger.bytes == 0
    assert not ddp._comm_hooks
    assert not any(parameter._post_accumulate_grad_hooks for parameter in net.parameters())
    again = gw.attach(DistributedDataParallel(model()), "auto")
    again.load_state_dict(roundtrip(auto.state_dict(), rank))
    assert again.choice == "dense"
    auto.close()
    again.close()
    decided = [line for line in said if "chose dense" in line]
    assert not any("local steps" in line for line in said), "nothing beats a microsecond"
    names = sorted(method.name for method in auto.verdict.methods)
    return {"choice": auto.choice, "logged": len(decided), "methods": names}


def logged() -> list[str]:
    """Collect what is logged from now on."""
    said: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("gradwire").addHandler(handler)
    logging.getLogger("gradwire").setLevel(logging.INFO)
    return said


def auto_compresses() -> dict[str, object]:
    """Act as if a dense step took ten seconds: after the decision it is the hook that a run with this exchange has."""
    rank, spec, said = dist.get_rank(), "ef(topk(density=0.1))", logged()
    LocalRound.beats = lambda self, seconds: seconds > 0
    judge = gw.Auto._judge
    gw.Auto._judge = lambda self, pace: judge(self, replace(pace, period=10.0))
    nets = [model(), model()]
    ddps = [DistributedDataParallel(net, bucket_cap_mb=0.004, find_unused_parameters=True) for net in nets]
    auto = gw.attach(ddps[0], "auto", candidates=["identity", spec], seed=5)
    undecided = roundtrip(auto.state_dict(), rank)
    for step in range(7):
        assert auto.choice is None
        loss(ddps[0], step, rank).backward()
    named = gw.attach(ddps[1], auto.choice, seed=5)
    for step in range(4):
        for net, ddp in zip(nets, ddps, strict=True):
            net.zero_grad()
            loss(ddp, step, rank).backward()
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(*(net.parameters() for net in nets), strict=True))
    assert auto.step == named.step == 4
    assert auto.ledger.bytes == named.ledger.bytes > 0
    resumed = gw.attach(DistributedDataParallel(model(), bucket_cap_mb=0.004), "auto")
    resumed.load_state_dict(roundtrip(named.state_dict(), rank))
    assert resumed.choice == repr(named.exchange)
    assert resumed.step == 4
    fresh = gw.attach(DistributedDataParallel(model(), bucket_cap_mb=0.004), "auto")
    fresh.load_state_dict(undecided)
    assert fresh.choice is None
    for other in (undecided, {**named.state_dict(), "exchange": "dense"}):
        with pytest.raises(ValueError, match="the checkpoint is of"):
            auto.load_state_dict(other)
    for one in (auto, named, resumed, fresh):
        one.close()
    said_of_local = [line for line in said if "local steps" in line]
    assert said_of_local == ([f"gradwire auto: {auto.local.sentence}"] if rank == 0 else [])
    return {"choice": auto.choice}


def timeout() -> timedelta:
    """Return the process group's timeout, read late because a forked rank may have imported this file earlier."""
    return timedelta(seconds=float(os.environ.get("GROUP_TIMEOUT", "60")))


def main(lives: dict[str, Callable[..., object]], name: str, *arguments: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timeout())
    life = lives[name]
    print(json.dumps({"rank": dist.get_rank(), "result": life(*arguments)}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
