"""Examples under torchrun: on one machine, and as two nodes in two network namespaces."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from gradwire import net
from gradwire.net.links import free_port

EXAMPLES = Path(__file__).parents[1] / "examples"
EXAMPLE = str(EXAMPLES / "ddp.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
pytestmark = [pytest.mark.story, pytest.mark.timeout(120)]


def check(printed: str, ranks: int) -> None:
    """All ranks end with equal parameters or shards, report their bytes, and sent a small part of dense."""
    report = r"rank (\d)(?:, shard (\d) of \d)?: sent ([\d,]+) bytes, dense ([\d,]+); checksum (-?[\d.]+)"
    reports = re.findall(report, printed)
    assert sorted(int(rank) for rank, *_ in reports) == list(range(ranks)), printed
    shards = {shard for _, shard, *_ in reports}
    assert len({(shard, checksum) for _, shard, *_, checksum in reports}) == len(shards), printed
    assert len(shards) == (2 if "shard" in printed else 1)
    for *_, sent, dense, _ in reports:
        assert 0 < int(sent.replace(",", "")) < 0.03 * int(dense.replace(",", ""))
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", printed)]
    assert losses[-1] < losses[0]


def run(nodes: list[list[str]], rate: str | None) -> str:
    with net.launch(nodes, rate=rate, env={"OMP_NUM_THREADS": "1"}, grace=5) as cluster:
        codes = cluster.wait(timeout=100)
        printed = "\n".join(cluster.lines())
    assert codes == [0] * len(nodes), printed
    return printed


@pytest.mark.parametrize(("example", "ranks"), [("ddp.py", 2), ("bare.py", 2), ("fsdp2.py", 4)])
def test_one_machine(example: str, ranks: int) -> None:
    port = ["--nproc-per-node", str(ranks), "--master-port", str(free_port())]
    check(run([[*TORCHRUN, *port, str(EXAMPLES / example)]], rate=None), ranks)


@pytest.mark.parametrize("example", ["bare.py", "fsdp2.py"])
def test_an_example_is_short_and_marks_our_lines(example: str) -> None:
    lines = (EXAMPLES / example).read_text().splitlines()
    assert len(lines) <= 60
    ours = [line for line in lines if re.search(r"gradwire\.|import gradwire|hook\.", line)]
    assert all(line.endswith("# gradwire") for line in ours)


def test_two_nodes_on_a_link() -> None:
    if (reason := net.refusal()) is not None:
        pytest.skip(reason)
    meet = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "10.77.0.1", "--master-port", "29611"]
    nodes = [[*TORCHRUN, *meet, "--node-rank", str(node), EXAMPLE] for node in range(2)]
    check(run(nodes, rate="100mbit"), 2)
