"""What ranks do in the stories of saved folders."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import loss, main, model
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradwire as gw
from gradwire.folder import manifest

METHODS = ("ef(topk(density=0.1))", "diana(randk(density=0.3))", "ef(micro(density=0.1))")


def everything() -> tuple[list[tuple[nn.Module, torch.optim.Optimizer]], list]:
    """A model and its hook for every method, and one of local steps."""
    pairs, hooks = [], []
    for spec in METHODS:
        net = model()
        ddp = DistributedDataParallel(net)
        hooks.append(gw.attach(ddp, spec, seed=3))
        pairs.append((ddp, torch.optim.SGD(net.parameters(), lr=0.05)))
    net = model()
    pairs.append((net, torch.optim.SGD(net.parameters(), lr=0.05)))
    hooks.append(gw.local(*pairs[-1], every=4, seed=3))
    return pairs, hooks


def train(pairs: list, first: int, last: int) -> None:
    for step in range(first, last):
        for net, optimizer in pairs:
            loss(net, step, dist.get_rank()).backward()
            optimizer.step()
            optimizer.zero_grad()


def same(a: object, b: object) -> bool:
    """Bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


def states(hooks: list) -> list[dict]:
    return [hook.state_dict() for hook in hooks]


def saves(folder: str) -> None:
    """Five steps, and then the folder; what was saved beside it, as torch saves it."""
    pairs, hooks = everything()
    train(pairs, 0, 5)
    gw.save(hooks, folder)
    torch.save(states(hooks), f"{folder}-{dist.get_rank()}.pt")
    assert sorted(file.name for file in Path(folder).iterdir()) == sorted(
        ["gradwire.json", *(f"gradwire-{rank}.pt" for rank in range(dist.get_world_size()))]
    )
    close(hooks)


def loads(folder: str, ranks: str, again: str) -> list[float]:
    """What `ranks` ranks saved: each its own where there are as many, else what merge makes of it; and on."""
    rank, size = dist.get_rank(), dist.get_world_size()
    pairs, hooks = everything()
    saved = [torch.load(f"{folder}-{other}.pt", weights_only=True) for other in range(int(ranks))]
    assert gw.load(hooks, folder)
    worst = []
    for number, (hook, now) in enumerate(zip(hooks, states(hooks), strict=True)):
        every = [each[number] for each in saved]
        wanted = every[rank] if len(every) == size else gw.merge(every)
        assert same(now["memory"], wanted["memory"])
        assert hook.step == wanted["step"] > 0
        worst.append(max(difference(now, every, path) for path in ("error", "h", "memory.error")))
    train(pairs, 5, 8)
    gw.save(hooks, again)
    torch.save(states(hooks), f"{again}-{rank}.pt")
    close(hooks)
    return worst


def difference(now: dict, saved: list[dict], path: str) -> float:
    """Between the mean of this memory over the ranks now and over those that saved it."""
    worst = 0.0
    for name, parts in now["memory"].items():
        if path in parts:
            mean = parts[path].double() / dist.get_world_size()
            dist.all_reduce(mean)
            then = torch.stack([each["memory"][name][path].double() for each in saved]).mean(0)
            worst = max(worst, (mean - then).abs().max().item())
    return worst


def refuses(folder: str) -> list[str]:
    """Whatever is wrong with a folder, on whichever rank: one sentence on both, and nothing has changed."""
    rank, path, said = dist.get_rank(), Path(folder), []
    pairs, hooks = everything()
    train(pairs, 0, 3)
    gw.save(hooks, path / "other")
    train(pairs, 3, 5)
    gw.save(hooks, path / "good")
    train(pairs, 5, 6)
    before = states(hooks)

    def refused(words: str, hooks: list = hooks, where: Path = path / "bad", **options: object) -> None:
        with pytest.raises(ValueError, match=words) as refusal:
            gw.load(hooks, where, **options)
        assert all(map(same, states(hooks), before))
        said.append(str(refusal.value))

    def spoilt(spoil: Callable[[Path], object], words: str) -> None:
        """Rank 0 spoils a copy of a good folder."""
        if rank == 0:
            shutil.rmtree(path / "bad", ignore_errors=True)
            shutil.copytree(path / "good", path / "bad")
            spoil(path / "bad")
        dist.barrier()
        refused(words)
        dist.barrier()

    spoilt(lambda bad: (bad / "gradwire-1.pt").unlink(), "gradwire-1.pt is missing here")
    spoilt(lambda bad: os.truncate(bad / "gradwire-1.pt", 100), "gradwire-1.pt has 100 bytes and was saved with")
    spoilt(lambda bad: flip(bad / "gradwire-0.pt"), "gradwire-0.pt is not the file that was saved")
    spoilt(lambda bad: shutil.copy(path / "other/gradwire-1.pt", bad), "gradwire-1.pt is not the file that was saved")
    spoilt(lambda bad: (bad / "gradwire.json").unlink(), "holds gradwire-0.pt but no gradwire.json")
    spoilt(lambda bad: flip(bad / "gradwire.json"), "gradwire.json is ")
    spoilt(lambda bad: (bad / "gradwire.json").write_text("[]"), "is no manifest of gradwire's")
    spoilt(void, r"the save of step 5, 5, 5, 1 into .* was cut short")
    spoilt(later, "has format 9, this gradwire reads format 1")
    refused("see different things", where=path / ("good" if rank == 0 else "other"))
    refused("see different things", where=path / ("good" if rank == 1 else "nothing"))
    refused("holds 4 hooks' states, and 3 are to be loaded", hooks[1:], path / "good")
    refused("the checkpoint is of", [hooks[0], hooks[2], hooks[1], hooks[3]], path / "good")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gw.Hook, "part", (1, 2))
        refused("saved in 1 shards and is in 2 now.*torch.distributed.checkpoint", where=path / "good")
    with pytest.warns(UserWarning, match="holds no state of gradwire: memories start at zero"):
        assert not gw.load(hooks, path / "nothing")
    assert all(map(same, states(hooks), before))

    with pytest.raises(ValueError, match=r"gradwire\.json, which rank 0 has just written, is not seen here"):
        gw.save(hooks, path / f"of rank {rank}")
    with pytest.raises(ValueError, match="no space" if rank == 1 else "rank 1: no space"), full_disk(1):
        gw.save(hooks, path / "full")
    refused("was cut short", where=path / "full")
    gw.save(hooks, path / "full")
    assert gw.load(hooks, path / "full")
    assert all(map(same, states(hooks), before))
    dist.barrier()

    alone = dist.new_group([rank], use_local_synchronization=True)
    gw.save(hooks[:1], path / f"alone {rank}", group=alone)  # one rank's state is not all
    with pytest.raises(ValueError, match="one checkpoint from every rank of a run, got ranks"):
        gw.load(hooks[:1], path / f"alone {1 - rank}", group=alone)
    close(hooks)
    return said


def flip(file: Path) -> None:
    """One bit, in the middle."""
    found = bytearray(file.read_bytes())
    found[len(found) // 2] ^= 1
    file.write_bytes(found)


def void(folder: Path) -> None:
    """As rank 0 begins a save."""
    found = manifest.parse(folder / manifest.MANIFEST)
    manifest.Manifest(found.save, found.steps, found.exchanges).write(folder)


def later(folder: Path) -> None:
    """A format of the future."""
    body = json.loads((folder / manifest.MANIFEST).read_text())["manifest"] | {"format": 9}
    (folder / manifest.MANIFEST).write_text(json.dumps({"blake2b": manifest._digest(body), "manifest": body}))


@contextmanager
def full_disk(rank: int) -> Iterator[None]:
    """No room for this rank's file."""

    def save(*_: object) -> None:
        raise OSError("no space left")

    with pytest.MonkeyPatch.context() as patch:
        if dist.get_rank() == rank:
            patch.setattr(torch, "save", save)
        yield


def is_killed_while_saving(folder: str, who: str, calls: str) -> None:
    """A complete save, and then one in which a rank kills itself at its so-manyth os.replace."""
    rank = dist.get_rank()
    pairs, hooks = everything()
    train(pairs, 0, 5)
    gw.save(hooks, folder)
    train(pairs, 5, 6)
    replace, left = os.replace, [int(calls)]

    def kill(*names: object) -> None:
        left[0] -= 1
        if rank == int(who) and not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*names)

    os.replace = kill
    gw.save(hooks, folder)


def goes_on(folder: str) -> None:
    """After that: refused on both ranks, and the next save counts."""
    pairs, hooks = everything()
    train(pairs, 0, 2)
    before = states(hooks)
    with pytest.raises(ValueError, match="was cut short"):
        gw.load(hooks, folder)
    assert all(map(same, states(hooks), before))
    gw.save(hooks, folder)
    train(pairs, 2, 3)
    assert gw.load(hooks, folder)
    assert all(map(same, states(hooks), before))
    close(hooks)


def close(hooks: list) -> None:
    for hook in hooks:
        hook.close()


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
