"""What ranks do in the stories of distributed checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from folder_ranks import close, difference, everything, same, states, train
from local_ranks import Normed
from ranks import main
from torch.distributed.checkpoint.api import CheckpointException

import gradwire as gw


def hooks_of(group: dist.ProcessGroup | None) -> tuple[list, list]:
    """Those of every method, and local steps whose exchange, of buffers too, is under way after five."""
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
    """Two workers save and go on as two, as four, as four again and as two: bit for bit, or with the mean kept."""
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
    """Load what was saved, train, and save again; by how much the means of memories differ, relative to memories."""
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


def refuses(folder: str) -> list[str]:
    """On all ranks, in a sentence, and nothing has changed."""
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
    spoilt = gw.Stateful(hooks[0], root / "good", key="hook 0")
    read = spoilt.state_dict()
    refused("was not read, or holds no state", lambda: spoilt.load_state_dict(read))
    one = wrapped(hooks[:1], None, root / "good")
    dcp.load(one, checkpoint_id=root / "good")
    assert hooks[0].step == 3
    dcp.save(one, checkpoint_id=root / "next")  # what was loaded once saves from then on
    dcp.load(wrapped(hooks[:1], None, root / "next"), checkpoint_id=root / "next")
    close(hooks)
    return said


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
