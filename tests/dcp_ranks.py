"""The functions that ranks run in the stories of distributed checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from folder_ranks import METHODS, close, difference, everything, same, states, train
from local_ranks import Normed
from ranks import main, model
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import gradwire as gw


def hooks_of(group: dist.ProcessGroup | None) -> tuple[list, list]:
    """Return a hook for every method, and local steps that have an exchange under way, also of buffers, after five
    steps.
    """
    pairs, hooks = everything(group)
    torch.manual_seed(0)
    net = Normed()
    pairs.append((net, torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.05)))
    hooks.append(gw.local(*pairs[-1], every=4, delay=2, catch_up="add", outer="nesterov", group=group))
    return pairs, hooks


def wrapped(hooks: list, group: dist.ProcessGroup | None, source: Path | None = None) -> dict[str, gw.Stateful]:
    names = [f"hook {number}" for number in range(len(hooks))]
    key = names if source else [None] * len(names)
    return {
        name: gw.Stateful(hook, source, key=key, group=group) for name, hook, key in zip(names, hooks, key, strict=True)
    }


def gathered(hooks: list, group: dist.ProcessGroup | None) -> list[list[dict]]:
    everybody = [None] * dist.get_world_size(group)
    dist.all_gather_object(everybody, states(hooks), group=group)
    return everybody


def become_four_and_two(folder: str) -> list[list[float]]:
    """Two workers save and continue as two, four, four and two: bit for bit with the same number, else with the mean
    kept.
    """
    rank, root = dist.get_rank(), Path(folder)
    pair = [dist.new_group([0, 1]), dist.new_group([2, 3])][rank // 2]
    pairs, hooks = hooks_of(pair)
    train(pairs, 0, 5)
    two = root / f"two {rank // 2}"
    dcp.save(wrapped(hooks, pair), checkpoint_id=two, process_group=pair)
    saved = gathered(hooks, pair)
    assert [len(state["local"]["arrivals"]) for state in saved[0][3:]] == [0, 1]
    assert len(saved[0][4]["local"]["buffers"]) == 4
    close(hooks)
    worst = [went_on(two, saved, pair, None)]
    everybody = [saved]
    dist.broadcast_object_list(everybody, 0)
    worst.append(went_on(root / "two 0", everybody[0], None, root / "four"))
    saved = torch.load(root / f"four {rank}.pt", weights_only=True)
    worst.append(went_on(root / "four", saved, None, None))
    worst.append(went_on(root / "four", saved, pair, None))
    return worst


def went_on(folder: Path, saved: list, group: dist.ProcessGroup | None, again: Path | None) -> list[float]:
    """Load what was saved, train, and save again. Returns the difference of the memories' means, relative to the
    memories.
    """
    pairs, hooks = hooks_of(group)
    dcp.load(wrapped(hooks, group, folder), checkpoint_id=folder, process_group=group)
    rank, size, worst = dist.get_rank(group), dist.get_world_size(group), []
    for number, (hook, now) in enumerate(zip(hooks, states(hooks), strict=True)):
        every = [each[number] for each in saved]
        if len(every) == size:
            assert same(now, every[rank])
            worst.append(0.0)
            continue
        wanted = gw.merge(every)
        for name, parts in wanted["memory"].items():
            for path, part in parts.items():
                torch.testing.assert_close(now["memory"][name][path], part, rtol=2e-7, atol=1e-8)
        assert hook.step == wanted["step"] > 0
        assert same(now.get("local"), wanted.get("local"))
        worst.append(max(difference(now, every, path, group) for path in ("error", "h", "memory.error")))
    train(pairs, 5, 8)
    if again is not None:
        aside = dist.new_group()  # DCP's thread speaks on it while this one trains
        writing = dcp.async_save(wrapped(hooks, group), checkpoint_id=again, process_group=aside)
        torch.save(gathered(hooks, group), f"{again} {dist.get_rank()}.pt")
        train(pairs, 8, 9)  # while it is written
        writing.result()
    close(hooks)
    dist.barrier()
    return worst


def keeps_halves(folder: str) -> float:
    """Errors in bfloat16 come back bit for bit, by both ways to save, and as their mean with another
    number of workers.
    """
    spec, root = "ef(topk(density=0.1), dtype='bfloat16')", Path(folder)

    def hooked(group: dist.ProcessGroup | None = None) -> tuple:
        net = model()
        ddp = DistributedDataParallel(net, process_group=group)
        return (ddp, torch.optim.SGD(net.parameters(), lr=0.05)), gw.attach(ddp, spec, seed=3)

    pair, hook = hooked()
    train([pair], 0, 5)
    saved = hook.state_dict()
    assert all(parts["error"].dtype == torch.bfloat16 for parts in saved["memory"].values())
    dcp.save({"hook": gw.Stateful(hook)}, checkpoint_id=root / "dcp")
    gw.save(hook, root / "folder")
    everybody = [None] * dist.get_world_size()
    dist.all_gather_object(everybody, saved)
    hook.close()
    for way in ("dcp", "folder"):
        _, again = hooked()
        if way == "dcp":
            dcp.load({"hook": gw.Stateful(again, root / "dcp")}, checkpoint_id=root / "dcp")
        else:
            gw.load(again, root / "folder")
        assert same(again.state_dict(), saved)
        again.close()
    alone = dist.new_group([dist.get_rank()], use_local_synchronization=True)
    _, one = hooked(alone)
    dcp.load({"hook": gw.Stateful(one, root / "dcp", group=alone)}, checkpoint_id=root / "dcp", process_group=alone)
    wanted, worst = gw.merge(everybody)["memory"], 0.0
    for name, parts in one.state_dict()["memory"].items():
        gap = parts["error"].double() - wanted[name]["error"].double()
        size = torch.stack([each["memory"][name]["error"].double().abs() for each in everybody]).mean(0)
        worst = max(worst, float((gap.abs() / size.clamp(min=1e-30)).max()))
    one.close()
    return worst


def refuses(folder: str) -> list[str]:
    """All ranks refuse in one sentence, and nothing has changed."""
    rank, root, said = dist.get_rank(), Path(folder), []
    pairs, hooks = everything()
    train(pairs, 0, 3)
    dcp.save(wrapped(hooks, None), checkpoint_id=root / "good")
    train(pairs, 3, 4)
    before = states(hooks)

    def refused(words: str, act: object, error: type[Exception] = ValueError) -> None:
        with pytest.raises(error, match=words) as refusal:
            act()
        assert all(map(same, states(hooks), before))
        said.append(str(refusal.value))

    for plain in ({"gradwire": hooks[0].state_dict()}, {"gradwire": hooks[3]}):
        words = r"duplicated flatten key gradwire\.torch\.distributed\.checkpoint keeps one rank's .*gradwire\.Stateful"
        refused(words, lambda plain=plain: dcp.save(plain, checkpoint_id=root / "plain"), CheckpointException)
        refused(words, lambda plain=plain: dcp.load(plain, checkpoint_id=root / "good"), CheckpointException)
    refused("holds 2 states that fit this hook and key=None", lambda: gw.Stateful(hooks[0], root / "good"))
    refused("holds 0 states that fit this hook", lambda: gw.Stateful(hooks[0], root / "good", key="another"))
    refused("No such file", lambda: gw.Stateful(hooks[0], root / ("nothing" if rank else "good"), key="hook 0"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gw.Hook, "part", (0, 2))
        refused("the model is sharded over 2 ranks: gradwire.Stateful", lambda: gw.Stateful(hooks[0]))

    other = gw.Stateful(hooks[2], root / "good", key="hook 0")  # whose memory has the same names and shapes
    refused("the checkpoint is of EF.*this hook runs", lambda: dcp.load({"hook 0": other}, checkpoint_id=root / "good"))
    damaged(lambda: wrapped(hooks[:1], None, root / "good"), root / "good", refused)
    alone = dist.new_group([rank], use_local_synchronization=True)
    _, lone = hooks_of(alone)
    damaged(lambda: wrapped(lone[:1], alone, root / "good"), root / "good", refused)
    close(lone)
    unread = wrapped(hooks[:1], None, root / "good")
    dcp.save(unread, checkpoint_id=root / "unread")  # not loaded: it holds this hook's own state
    again = wrapped(hooks[:1], None, root / "unread")
    dcp.load(again, checkpoint_id=root / "unread")
    assert all(map(same, states(hooks), before))
    one = wrapped(hooks[:1], None, root / "good")
    dcp.load(one, checkpoint_id=root / "good")
    assert hooks[0].step == 3
    dcp.save(one, checkpoint_id=root / "next")  # what was loaded once saves from then on
    dcp.load(wrapped(hooks[:1], None, root / "next"), checkpoint_id=root / "next")
    close(hooks)
    return said


def damaged(wrap: Callable[[], dict[str, gw.Stateful]], folder: Path, refused: Callable) -> None:
    """Read a checkpoint, change a bit of a memory or a head in the second worker's row, and see it refused."""
    ((key, stateful),) = wrap().items()
    for part, words in (("error", "the memory of worker 1 in the checkpoint is damaged"), ("head", "was not read")):
        read = stateful.state_dict()
        dcp.load({key: read}, checkpoint_id=folder, no_dist=stateful._all_ranks.size == 1)
        rows = next(rows for name, rows in read.items() if name.endswith(part))
        local = rows.to_local() if isinstance(rows, DTensor) else rows
        if dist.get_rank() == 1 or len(local) == 2:
            local[-1].view(torch.uint8).view(-1)[0] ^= 1
        refused(words, lambda read=read: stateful.load_state_dict(read))


class Uneven(nn.Module):
    """A net in which no width is a multiple of the number of ranks, and one is smaller."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.block, self.last = nn.Linear(5, 7), nn.Linear(7, 11), nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.block(self.first(x).tanh()).tanh())


@dataclass
class Islands:
    """A sharded model with its hook, for every method and for local steps, on a mesh of islands."""

    mesh: DeviceMesh

    def __post_init__(self) -> None:
        self.nets, self.hooks = [Uneven() for _ in (*METHODS, "local")], []
        for net in self.nets:
            fully_shard(net.block, mesh=self.mesh["shard"])
            fully_shard(net, mesh=self.mesh["shard"])
        self.pairs = [(net, torch.optim.SGD(net.parameters(), lr=0.05)) for net in self.nets]
        for net, spec in zip(self.nets, METHODS, strict=False):
            self.hooks.append(gw.attach(net, spec, seed=3, group=self.mesh["replicate"]))
        self.hooks.append(gw.local(*self.pairs[-1], every=4, outer="nesterov", group=self.mesh["replicate"]))

    def wrapped(self, source: Path | None = None, group: dist.ProcessGroup | None = None) -> dict[str, gw.Stateful]:
        return {
            f"net {number}": gw.Stateful(hook, source, model=net, key=f"net {number}" if source else None, group=group)
            for number, (net, hook) in enumerate(zip(self.nets, self.hooks, strict=True))
        }

    def whole(self) -> list[dict[str, Tensor]]:
        """Return every memory of the whole model, without replicated state: f[workers, *shape]. FSDP2 cuts the first
        dimension.
        """
        everybody = [None] * self.mesh.size()
        dist.all_gather_object(everybody, states(self.hooks))
        found = []
        for number, mine in enumerate(everybody[0]):
            memory = [[everybody[rank][number]["memory"] for rank in row] for row in self.mesh.mesh.tolist()]
            paths = [(name, path) for name, parts in mine["memory"].items() for path in parts if "unit." not in path]
            found.append(
                {f"{n} {p}": torch.stack([torch.cat([part[n][p] for part in row]) for row in memory]) for n, p in paths}
            )
        return found


def islands(folder: str) -> None:
    """Two islands of two shards resume bit for bit; redistributed to one island of four and back to two they keep the
    mean.
    """
    root = Path(folder)
    two, four = (init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")) for shape in ((2, 2), (1, 4)))
    saving = Islands(two)
    train(saving.pairs, 0, 5)
    gw.save(saving.hooks, root / "files")
    dcp.save(saving.wrapped(), checkpoint_id=root / "two")
    saved, mine = saving.whole(), states(saving.hooks)
    close(saving.hooks)

    again = Islands(two)
    dcp.load(again.wrapped(root / "two"), checkpoint_id=root / "two")
    assert same(states(again.hooks), mine)
    again, before = Islands(two), again
    assert gw.load(again.hooks, root / "files")
    assert same(states(again.hooks), mine)
    close([*again.hooks, *before.hooks])

    resharded = Islands(four)
    with pytest.raises(ValueError, match=r"saved in 2 shards and is in 4 now: .* gradwire\.Stateful"):
        gw.load(resharded.hooks, root / "files")
    with pytest.raises(ValueError, match=r"the model is sharded over 4 ranks: gradwire\.Stateful\(hook, model=model\)"):
        gw.Stateful(resharded.hooks[0])
    dcp.load(resharded.wrapped(root / "two"), checkpoint_id=root / "two")
    for now, then in zip(resharded.whole(), saved, strict=True):
        assert now.keys() == then.keys()
        for name, part in then.items():
            torch.testing.assert_close(now[name], part.mean(0, keepdim=True), rtol=2**-23, atol=1e-12)
    train(resharded.pairs, 5, 8)
    dcp.save(resharded.wrapped(), checkpoint_id=root / "four")
    saved = resharded.whole()
    close(resharded.hooks)

    back = Islands(two)
    dcp.load(back.wrapped(root / "four"), checkpoint_id=root / "four")
    for now, then in zip(back.whole(), saved, strict=True):
        for name, part in then.items():
            assert torch.equal(now[name], part.expand(2, *part.shape[1:])), name
    train(back.pairs, 8, 10)
    assert [hook.step for hook in back.hooks] == [10, 10, 10, 2]
    close(back.hooks)

    one = DeviceMesh("cpu", [[0, 1]], mesh_dim_names=("replicate", "shard"))
    group = dist.new_group([0, 1])
    if dist.get_rank() < 2:  # as many parts, one worker: the mean of each part's files
        alone = Islands(one)
        assert gw.load(alone.hooks, root / "files", group=group)
        everybody = [torch.load(root / f"files/gradwire-{rank}.pt", weights_only=True)["states"] for rank in range(4)]
        for number, now in enumerate(states(alone.hooks)):
            part = [everybody[rank][number] for rank in (dist.get_rank(), dist.get_rank() + 2)]
            assert same(now["memory"], gw.merge(part)["memory"])
        close(alone.hooks)


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
