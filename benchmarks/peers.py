"""Other packages' methods of averaging compared with gradwire's, on the same model, data, link and steps.

    python benchmarks/peers.py [--rate 100mbit] [--steps 200] [--lr 0.002 ...] [--only NAME ...] [--again] [--table]

All train the demo's GPT on two ranks with one thread each, by AdamW with torch's settings and a constant learning rate after a warm-up;
rounds of local steps have EVERY steps. torchft and accelerate are optional: install them with gradwire in a separate environment
(`pip install torchft accelerate`) and run this there. A peer that is missing or fails is listed with its message. Peers that
results/peers.json has already are not run again without --again. --table writes the section of docs/speed.md, with each peer's best
learning rate.

A run takes STEPS steps on the link (dense: 0.32 s a step at 100 Mbit/s) and ten seconds to start: about five minutes for a rate.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from rows import RESULTS, write

LEARNING_RATES, WARMUP, EVERY, CLIP = (2e-3,), 20, 10, 1.0
MODEL = {"width": 128, "depth": 4, "heads": 4, "context": 64}
BATCH, EVALUATION_SEQUENCES = 4, 256
PAGE = Path(__file__).parents[1] / "docs" / "speed.md"
HEADER_BYTES = 66

Peer = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Kept:
    """A model that is averaged with the other ranks'. forward: the module to call. finish: ends the last round."""

    forward: Any
    step: Callable[[], None]
    finish: Callable[[], None] = lambda: None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", default="100mbit")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, action="append", help="a learning rate; may be repeated")
    parser.add_argument("--only", action="append", choices=list(PEERS))
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--table", action="store_true", help="measure nothing; write the table of docs/speed.md")
    parser.add_argument("--rank", help="for internal use: run as a rank with this peer")
    chosen = parser.parse_args()
    if chosen.rank:
        be_rank(chosen.rank, chosen.steps, chosen.lr[0])
        return
    if chosen.table:
        draw(read())
        return
    for lr in chosen.lr or LEARNING_RATES:
        for name in chosen.only or PEERS:
            setting = {"name": name, "rate": chosen.rate, "steps": chosen.steps, "every": EVERY, "learning_rate": lr}
            others = [peer for peer in read() if not setting.items() <= peer.items()]
            known = [peer for peer in read() if setting.items() <= peer.items() and "message" not in peer]
            if not known or chosen.again:
                peer = run(setting)
                write("peers.json", [*others, peer])
                print(json.dumps(peer), flush=True)


def read() -> list[Peer]:
    file = RESULTS / "peers.json"
    return json.loads(file.read_text()) if file.exists() else []


def run(setting: Peer) -> Peer:
    """Start two ranks of a peer on a link; return rank 0's result, or the error message."""
    from gradwire import net

    options = {"--rank": setting["name"], "--steps": setting["steps"], "--lr": setting["learning_rate"]}
    command = [sys.executable, __file__, *(str(word) for option in options.items() for word in option)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        net.launch(
            [command] * 2, rate=setting["rate"], env={"OMP_NUM_THREADS": "1"}, grace=5.0, stderr=errors
        ) as cluster,
    ):
        lines = [json.loads(line) for line in cluster.lines() if line.startswith("{")]
        cluster.wait(timeout=60)
        errors.seek(0)
        complaint = [line.strip() for line in errors.read().splitlines() if line.strip()]
    failed = next((line for line in lines if "message" in line), None)
    if lines and failed is None:
        return setting | lines[0]
    return setting | (
        failed or {"message": complaint[-1][:300] if complaint else "the ranks have ended without a word"}
    )


def be_rank(name: str, steps: int, lr: float) -> None:
    """Train as one rank; rank 0 prints the result as a line of JSON, and a rank that fails prints its message."""
    try:
        done = train(name, steps, lr)
    except Exception as error:  # any failure of another package is reported as its result
        words = str(error).strip().splitlines() or [""]
        print(json.dumps({"message": f"{type(error).__name__}: {words[0][:300]}"}), flush=True)
        os._exit(1)
    if os.environ["RANK"] == "0":
        print(json.dumps(done), flush=True)
    os._exit(0)  # some packages' threads would keep the process alive


def train(name: str, steps: int, lr: float) -> Peer:
    """Train so many steps; return seconds, bytes by the kernel's count, and the held-out loss averaged over ranks."""
    import torch
    import torch.distributed as dist

    from gradwire.lab import corpus, remote
    from gradwire.lab.models.gpt import GPT

    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo")
    rank, text, model = dist.get_rank(), corpus.standard_library(), GPT(**MODEL)
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    kept = PEERS[name](model, optimizer)
    dist.barrier()
    before, started = remote.link_counters(), time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / WARMUP)
        draw = torch.Generator().manual_seed(step * 1024 + rank)
        optimizer.zero_grad(set_to_none=False)
        kept.forward(*text.batch(BATCH, MODEL["context"], draw)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        kept.step()
    kept.finish()
    dist.barrier()
    seconds, after = time.perf_counter() - started, remote.link_counters()
    tokens, targets = text.evaluation(EVALUATION_SEQUENCES, MODEL["context"])
    with torch.no_grad():
        loss = model(tokens, targets).double()
        apart = torch.cat([p.detach().flatten() for p in model.parameters()])
        other = apart.clone()
    dist.all_reduce(loss)
    dist.all_reduce(other)
    tx, packets = after[0] - before[0], after[1] - before[1]
    return {
        "seconds": seconds,
        "link_bytes": tx,
        "link_payload": tx - HEADER_BYTES * packets,
        "loss": float(loss) / dist.get_world_size(),
        "equal": bool(torch.equal(other, apart * dist.get_world_size())),
        "versions": {"torch": torch.__version__} | versions(name),
    }


def versions(name: str) -> dict[str, str]:
    return {package: metadata.version(package) for package in ("torchft", "accelerate") if package in name}


# ---- the peers


def way(name: str) -> Callable[[Any, Any], Kept]:
    """A method of `lab.ways`: torch's own hooks, or gradwire."""

    def keep(model: Any, optimizer: Any) -> Kept:
        from gradwire.lab.ways.wrapped import average

        comm = average(model, optimizer, name)

        def step() -> None:
            comm.stepped()
            optimizer.step()

        return Kept(comm.model, step, comm.finish)

    return keep


def periodic(model: Any, optimizer: Any) -> Kept:
    """torch's PeriodicModelAverager on a bare model."""
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

    averager = PeriodicModelAverager(EVERY, warmup_steps=EVERY - 1)  # without warmup_steps it averages after step 1

    def step() -> None:
        optimizer.step()
        averager.average_parameters(model.parameters())

    return Kept(model, step, lambda: mean_of_models(model))


def post_local_sgd(model: Any, optimizer: Any) -> Kept:
    """torch's post_localSGD_hook with its optimizer: the first round dense, then local steps."""
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks import post_localSGD_hook as post
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
    from torch.distributed.optim import PostLocalSGDOptimizer
    from torch.nn.parallel import DistributedDataParallel

    ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
    alone, _ = dist.new_subgroups(group_size=1)
    ddp.register_comm_hook(post.PostLocalSGDState(None, alone, EVERY), post.post_localSGD_hook)
    averaging = PostLocalSGDOptimizer(optimizer, PeriodicModelAverager(EVERY, warmup_steps=EVERY))
    return Kept(ddp, averaging.step, lambda: mean_of_models(model))


def mean_of_models(model: Any) -> None:
    """End a round explicitly, because torch's averagers have no method for it."""
    import torch.distributed as dist
    from torch.distributed.algorithms.model_averaging.utils import average_parameters

    average_parameters(model.parameters(), dist.group.WORLD)


def accelerate(model: Any, optimizer: Any) -> Kept:
    """accelerate's LocalSGD: the plain mean of models, with DDP under no_sync."""
    from accelerate import Accelerator
    from accelerate.local_sgd import LocalSGD

    accelerator = Accelerator(cpu=True)
    ddp, prepared = accelerator.prepare(model, optimizer)
    sgd = LocalSGD(accelerator=accelerator, model=ddp, local_sgd_steps=EVERY, enabled=True)
    sgd.__enter__()

    def step() -> None:
        prepared.step()
        sgd.step()

    return Kept(ddp, step, lambda: sgd.__exit__(None, None, None))


def diloco(lr: float, momentum: float) -> Callable[[Any, Any], Kept]:
    """torchft's DiLoCo with an outer SGD, with Nesterov momentum if there is one."""
    return lambda model, optimizer: _diloco(model, optimizer, lr, momentum)


def _diloco(model: Any, optimizer: Any, lr: float, momentum: float) -> Kept:
    """Two replica groups of one rank each, averaged parameter by parameter, because its buckets do not average."""
    import socket
    from datetime import timedelta

    import torch
    import torch.distributed as dist
    from torchft import Manager, ProcessGroupGloo
    from torchft.coordination import LighthouseServer
    from torchft.local_sgd import DiLoCo

    rank, master = dist.get_rank(), os.environ["MASTER_ADDR"]
    light = LighthouseServer(bind="0.0.0.0:29600", min_replicas=2, join_timeout_ms=1000) if rank == 0 else None
    dist.barrier()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((master, 1))
        mine = probe.getsockname()[0]
    store = dist.TCPStore(mine, 0, is_master=True, wait_for_workers=False)
    state: dict[str, Any] = {"light": light, "store": store}

    def save() -> dict[str, Any]:
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

    def load(saved: dict[str, Any]) -> None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])

    wait = timedelta(seconds=60)
    manager = Manager(
        pg=ProcessGroupGloo(timeout=wait),
        load_state_dict=load,
        state_dict=save,
        min_replica_size=2,
        use_async_quorum=False,
        timeout=wait,
        quorum_timeout=wait,
        rank=0,
        world_size=1,
        replica_id=f"r{rank}_",
        store_addr=mine,
        store_port=store.port,
        lighthouse_addr=f"http://{master}:29600",
        hostname=mine,
        init_sync=False,  # models are equal already, and healing would discard a replica's first round
    )
    outer = torch.optim.SGD(model.parameters(), lr, momentum, nesterov=momentum > 0)
    trained = DiLoCo(manager, [model], optimizer, outer, sync_every=EVERY)
    trained.__enter__()
    state["manager"] = manager
    KEPT_ALIVE.append(state)
    return Kept(model, optimizer.step, lambda: trained.__exit__(None, None, None))


KEPT_ALIVE: list[object] = []

PEERS: dict[str, Callable[[Any, Any], Kept]] = {
    "torch: DDP": way("dense"),
    **{f"torch: PowerSGD rank {rank}": way(f"powersgd{rank}") for rank in (1, 2, 4, 8)},
    "torch: PeriodicModelAverager": periodic,
    "torch: post-local SGD": post_local_sgd,
    "accelerate: LocalSGD": accelerate,
    "torchft: DiLoCo, outer Nesterov 0.7, 0.9": diloco(0.7, 0.9),
    "torchft: DiLoCo, outer SGD 1.0": diloco(1.0, 0.0),
    "gradwire: local, DiLoCo's form": way(
        f"local(every={EVERY}, exchange='mean', outer='nesterov(lr=0.7, momentum=0.9)')"
    ),
    "gradwire: local, mean of models": way(f"local(every={EVERY}, exchange='mean', outer='sgd(lr=1.0)')"),
    "gradwire: local": way(f"local(every={EVERY})"),
}


# ---- the table


def draw(peers: list[Peer]) -> None:
    """Write the section of docs/speed.md."""
    marked = re.compile(r"(<!-- peers -->\n).*?(<!-- /peers -->)", re.DOTALL)
    text = section(peers) if peers else ""
    PAGE.write_text(marked.sub(lambda found: found[1] + text + found[2], PAGE.read_text()))


def section(peers: list[Peer]) -> str:
    """The section's text: every peer at its best learning rate, for every link and number of steps."""
    rates = ", ".join(f"{rate:g}" for rate in sorted({peer["learning_rate"] for peer in peers}))
    packages = sorted({f"{name} {version}" for peer in peers for name, version in peer.get("versions", {}).items()})
    lines = [
        line for link in dict.fromkeys((peer["rate"], peer["steps"]) for peer in peers) for line in rows(peers, link)
    ]
    return f"""## Beside other packages

`python benchmarks/peers.py` compares gradwire with other packages, in an environment of its own. All train the demo's GPT on
two ranks with the same batches for the same number of steps, with AdamW at torch's defaults, one seed. The learning rate
is constant after a warm-up, and each row has the best rate of those tried ({rates}). A round of local steps has {EVERY} steps.
Bytes are the kernel's, less headers. The loss is that of the model that all ranks share at the end.
Versions: {", ".join(packages)}.

| | link | steps | learning rate | seconds | MB sent by a rank | held-out loss |
|---|---|---:|---:|---:|---:|---:|
{chr(10).join(lines)}
"""


def rows(peers: list[Peer], link: tuple[str, int]) -> list[str]:
    """A line for each peer, in the order of PEERS; its message if it did not run."""
    lines: list[str] = []
    for name in PEERS:
        found = [peer for peer in peers if (peer["name"], peer["rate"], peer["steps"]) == (name, *link)]
        place = f"| {name} | {link[0]} | {link[1]} |"
        if ran := [peer for peer in found if "message" not in peer]:
            best = min(ran, key=lambda peer: peer["loss"])
            figures = f"{best['seconds']:.1f} | {best['link_payload'] / 1e6:.3g} | {best['loss']:.3f}"
            lines.append(f"{place} {best['learning_rate']:g} | {figures} |")
        elif found:
            lines.append(f"{place} did not run: {found[0]['message'].replace('|', '/')} | | | |")
    return lines


if __name__ == "__main__":
    main()
