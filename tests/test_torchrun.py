"""The example under torchrun: on one machine, and as two nodes in two network namespaces."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from gradwire import net
from gradwire.net.links import free_port

EXAMPLE = str(Path(__file__).parents[1] / "examples" / "ddp.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
pytestmark = [pytest.mark.story, pytest.mark.timeout(120)]


def check(printed: str, ranks: int) -> None:
    """All ranks end with equal parameters, report their bytes, and sent a small part of dense."""
    reports = re.findall(r"rank (\d): sent ([\d,]+) bytes, dense ([\d,]+); checksum ([\d.]+)", printed)
    assert sorted(int(rank) for rank, *_ in reports) == list(range(ranks)), printed
    assert len({checksum for *_, checksum in reports}) == 1, printed
    for _, sent, dense, _ in reports:
        assert 0 < int(sent.replace(",", "")) < 0.03 * int(dense.replace(",", ""))
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", printed)]
    assert losses[-1] < losses[0]


def run(nodes: list[list[str]], rate: str | None) -> str:
    with net.launch(nodes, rate=rate, env={"OMP_NUM_THREADS": "1"}, grace=5) as cluster:
        codes = cluster.wait(timeout=100)
        printed = "\n".join(cluster.lines())
    assert codes == [0] * len(nodes), printed
    return printed


def test_one_machine() -> None:
    check(run([[*TORCHRUN, "--nproc-per-node", "2", "--master-port", str(free_port()), EXAMPLE]], rate=None), 2)


def test_two_nodes_on_a_link() -> None:
    if (reason := net.refusal()) is not None:
        pytest.skip(reason)
    meet = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "10.77.0.1", "--master-port", "29611"]
    nodes = [[*TORCHRUN, *meet, "--node-rank", str(node), EXAMPLE] for node in range(2)]
    check(run(nodes, rate="100mbit"), 2)
