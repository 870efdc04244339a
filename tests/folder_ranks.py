"""The functions that ranks run in the stories of saved folders."""

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


def everything(group: dist.ProcessGroup | None = None) -> tuple[list[tuple[nn.Module, torch.optim.Optimizer]], list]:
    """Make a model and its hook for every method, and one with local steps."""
    pairs, hooks = [], []
    for spec in METHODS:
        net = model()
        ddp = DistributedDataParallel(net, process_group=group)
        hooks.append(gw.attach(ddp, spec, seed=3))
        pairs.append((ddp, torch.optim.SGD(net.parameters(), lr=0.05)))
    net = model()
    pairs.append((net, torch.optim.SGD(net.parameters(), lr=0.05)))
    hooks.append(gw.local(*pairs[-1], every=4, seed=3, group=group))
    return pairs, hooks


def train(pairs: list, first: int, last: int) -> None:
    for step in range(first, last):
        for net, optimizer in pairs:
            loss(net, step, dist.get_rank()).backward()
            optimizer.step()
            optimizer.zero_grad()


def same(a: object, b: object) -> bool:
    """Compare two states bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def states(hooks: list) -> list[dict]:
    return [hook.state_dict() for hook in hooks]


def become_four_and_one(folder: str) -> list[list[float]]:
    """Two ranks save and continue as two, four, one each, and two: bit for bit, or from what `merge` makes of the
    states.
    """
    rank, root = dist.get_rank(), Path(folder)
    pair = [dist.new_group([0, 1]), dist.new_group([2, 3])][rank // 2]
    alone = dist.new_group([rank], use_local_synchronization=True)
    pairs, hooks = everything(pair)
    train(pairs, 0, 5)
    saved = save(hooks, root / f"two {rank // 2}", pair)
    worst = [went_on(root / f"two {rank // 2}", saved, pair)]
    everybody = [saved]
    dist.broadcast_object_list(everybody, 0)  # ranks 2 and 3 have been through the same batches otherwise
    worst.append(went_on(root / "two 0", everybody[0], None, root / "four"))
    saved = torch.load(root / "four.pt", weights_only=True)
    worst.append(went_on(root / "four", saved, alone, root / f"one {rank}"))
    dist.barrier()
    one = torch.load(root / f"one {rank // 2}.pt", weights_only=True)
    worst.append(went_on(root / f"one {rank // 2}", one, pair))
    return worst


def save(hooks: list, folder: Path, group: dist.ProcessGroup | None) -> list[list[dict]]:
    """Save the states of all ranks of a group in the folder, and beside it as torch saves them."""
    gw.save(hooks, folder, group=group)
    many = dist.get_world_size(group)
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        ["gradwire.json", *(f"gradwire-{rank}.pt" for rank in range(many))]
    )
    everybody = [None] * many
    dist.all_gather_object(everybody, states(hooks), group=group)
    if dist.get_rank(group) == 0:
        torch.save(everybody, folder.with_suffix(".pt"))
    close(hooks)
    return everybody


def went_on(folder: Path, saved: list, group: dist.ProcessGroup | None, again: Path | None = None) -> list[float]:
    """Load what was `saved`, train, and save again. Returns the difference of the memories' means, relative to the
    memories.
    """
    pairs, hooks = everything(group)
    assert gw.load(hooks, folder, group=group)
    rank, size, worst = dist.get_rank(group), dist.get_world_size(group), []
    for number, (hook, now) in enumerate(zip(hooks, states(hooks), strict=True)):
        every = [each[number] for each in saved]
        wanted = every[rank] if len(every) == size else gw.merge(every)
        assert same(now["memory"], wanted["memory"])
        assert hook.step == wanted["step"] > 0
        worst.append(max(difference(now, every, path, group) for path in ("error", "h", "memory.error")))
    train(pairs, 5, 8)
    if again is not None:
        save(hooks, again, group)
    else:
        close(hooks)
    dist.barrier()
    return worst


def difference(now: dict, saved: list[dict], path: str, group: dist.ProcessGroup | None) -> float:
    """Return the difference between this memory's mean over the ranks now and over the ranks that saved it."""
    worst = 0.0
    for name, parts in now["memory"].items():
        if path in parts:
            mean = parts[path].double() / dist.get_world_size(group)
            dist.all_reduce(mean, group=group)
            then = torch.stack([each["memory"][name][path].double() for each in saved])
            largest = then.abs().max().clamp(min=1e-30)
            worst = max(worst, ((mean - then.mean(0)).abs().max() / largest).item())
    return worst


def refuses(folder: str, killed: str) -> list[str]:
    """Whatever is wrong with a folder, and on whichever rank: one sentence on both, and nothing has changed."""
    rank, path, said = dist.get_rank(), Path(folder), []
    pairs, hooks = everything()
    train(pairs, 0, 3)
    gw.save(hooks, path / "other")
    train(pairs, 3, 5)
    gw.save(hooks, path / "good")
    train(pairs, 5, 6)
    before = states(hooks)

    def refused(words: str, given: list = hooks, where: Path = path / "bad", **options: object) -> None:
        with pytest.raises(ValueError, match=words) as refusal:
            gw.load(given, where, **options)
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

    refused("the save of step 6, 6, 6, 1 into .* was cut short", where=Path(killed))
    gw.save(hooks, killed)
    assert gw.load(hooks, killed)
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

    autos = [gw.attach(DistributedDataParallel(model()), "auto", candidates=kinds) for kinds in ((), ["mean"], ())]
    gw.save(autos[:2], path / "auto")  # one has decided to leave DDP alone, the other not yet
    assert gw.load([autos[2], autos[1]], path / "auto")
    assert [auto.choice for auto in autos] == ["dense", None, "dense"]
    for auto in autos[:2]:
        with pytest.raises(ValueError, match="has chosen no exchange"):
            gw.Stateful(auto)
    close(autos)

    alone = dist.new_group([rank], use_local_synchronization=True)
    for act in (gw.save, gw.load):  # one rank of two
        with pytest.raises(ValueError, match="1 ranks save or load together, but the hook has 2 workers"):
            act(hooks[:1], path / "good", group=alone)
    close(hooks)
    return said


def flip(file: Path) -> None:
    """Flip one bit in the middle."""
    found = bytearray(file.read_bytes())
    found[len(found) // 2] ^= 1
    file.write_bytes(found)


def void(folder: Path) -> None:
    """Make the manifest void, as rank 0 does when a save begins."""
    found = manifest.parse(folder / manifest.MANIFEST)
    manifest.Manifest(found.save, found.steps, found.exchanges).write(folder)


def later(folder: Path) -> None:
    """Write a format of the future."""
    body = json.loads((folder / manifest.MANIFEST).read_text())["manifest"] | {"format": 9}
    (folder / manifest.MANIFEST).write_text(json.dumps({"blake2b": manifest._digest(body), "manifest": body}))


@contextmanager
def full_disk(rank: int) -> Iterator[None]:
    """Leave no room on the disk for this rank's file."""

    def save(*_: object) -> None:
        raise OSError("no space left")

    with pytest.MonkeyPatch.context() as patch:
        if dist.get_rank() == rank:
            patch.setattr(torch, "save", save)
        yield


def is_killed_while_saving(folder: str) -> None:
    """Make a complete save, and then one in which rank 1 kills itself when its file is to be renamed."""
    pairs, hooks = everything()
    train(pairs, 0, 5)
    gw.save(hooks, folder)
    train(pairs, 5, 6)
    if dist.get_rank() == 1:
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    gw.save(hooks, folder)


def close(hooks: list) -> None:
    for hook in hooks:
        hook.close()


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
