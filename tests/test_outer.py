"""Outer steps: pure functions of (anchor, mean, state), and the mean over a coordinate's senders."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from zoo import LAYOUT, SPECS

import gradwire as gw
from gradwire.outer.nesterov import Nesterov
from gradwire.outer.sgd import SGD
from gradwire.spec import SpecError, as_outer

N = 5


def moved(outer: SGD | Nesterov, mean: gw.Dense | gw.Sparse, size: int = N) -> torch.Tensor:
    anchor = torch.zeros(mean.dense().shape)
    outer(anchor, mean, outer.init(gw.Layout(["x"], [anchor.shape])), size)
    return anchor


def last_sent(spec: str, *, batched: bool = False) -> tuple[gw.Sent, torch.Tensor]:
    """Return what worker 0 knows after two steps of five workers, and the vectors of the second step."""
    simulator = gw.Simulator(spec, LAYOUT, N, batched=batched)
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        xs = torch.randn(N, LAYOUT.d, generator=generator)
        sent = simulator.send(xs, params=torch.zeros(LAYOUT.d))
    return sent[0], torch.stack([worker.own.dense() for worker in sent]) if not batched else sent[0].own.dense()


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("spec", ["topk(density=0.1)", "ef(topk(density=0.1, values='bits2'))", "randk(density=0.3)"])
def test_senders_mean_counts_those_who_sent(spec: str, batched: bool) -> None:
    sent, owns = last_sent(spec, batched=batched)
    sends = (owns != 0).sum(0)
    assert sends.min() < N, "if all sent everything there would be nothing to see"
    expected = torch.where(sends > 0, owns.sum(0) / sends.clamp(min=1), 0.0)
    torch.testing.assert_close(moved(SGD(mean="senders"), sent.mean), -expected)


@pytest.mark.parametrize("spec", SPECS)
def test_senders_mean_is_the_mean_where_all_send(spec: str) -> None:
    """Over the zoo only gathered sparse messages have senders; for all others every coordinate has n of them."""
    sent, _ = last_sent(spec)
    alike = moved(SGD(mean="senders"), sent.mean)
    if not (isinstance(sent.mean, gw.Sparse) and sent.mean.per_sender):
        assert torch.equal(alike, moved(SGD(), sent.mean))
    elif sent.mean.indices.unique(return_counts=True)[1].eq(N).all():
        torch.testing.assert_close(alike, moved(SGD(), sent.mean))


@pytest.mark.parametrize("spec", ["deft(density=0.05)", "uniontopk(density=0.05)", "globaltopk(density=0.05)", "mean"])
def test_a_coordinate_sent_for_all_is_not_counted_alone(spec: str) -> None:
    """A coordinate of DEFT's mean occurs once and stands for all workers."""
    sent, _ = last_sent(spec)
    assert torch.equal(moved(SGD(mean="senders"), sent.mean), -sent.mean.dense())


def test_nesterov_is_torchs() -> None:
    outer, layout = Nesterov(lr=0.7, momentum=0.9), gw.Layout(["x"], [(50,)])
    generator = torch.Generator().manual_seed(0)
    anchor = torch.randn(50, generator=generator)
    theirs = anchor.clone().requires_grad_()
    optimizer = torch.optim.SGD([theirs], lr=0.7, momentum=0.9, nesterov=True)
    state = outer.init(layout)
    for _ in range(5):
        mean = torch.randn(50, generator=generator)
        theirs.grad = mean.clone()
        optimizer.step()
        outer(anchor, gw.Dense(mean), state, 4)
        torch.testing.assert_close(anchor, theirs.detach())


@pytest.mark.parametrize("mean", [gw.Dense(torch.arange(4.0)), gw.Sparse(torch.tensor([1, 3]), torch.ones(2), 4)])
def test_sgd_moves_against_the_mean(mean: gw.Dense | gw.Sparse) -> None:
    assert torch.equal(moved(SGD(lr=0.5), mean), -0.5 * mean.dense())


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("sgd(lr=0)", "lr must be above 0, got 0"),
        ("sgd(lr=-1.0)", "got -1.0"),
        ("sgd(lr=true)", "got True"),
        ("sgd(mean='some')", "mean must be 'all' or 'senders', got 'some'"),
        ("nesterov(momentum=1.0)", "momentum must lie in (0, 1), got 1.0"),
        ("nesterov(momentum=0)", "without momentum use sgd"),
        ("nesterov(lr='fast')", "lr must be above 0, got 'fast'"),
        ("ef(mean)", "which is no outer step (nesterov, sgd)"),
        ("topk(density=0.1)", "which is no outer step"),
        ("adam", "unknown name 'adam'"),
    ],
)
def test_refusals(spec: str, words: str) -> None:
    with pytest.raises(SpecError, match=r".") as refused:
        as_outer(spec, "local")
    assert words in str(refused.value)


def test_an_object_must_be_an_outer_step() -> None:
    assert as_outer(SGD(), "local") == SGD()
    for value in (3, SGD, gw.parse("mean"), torch.optim.SGD):
        with pytest.raises(TypeError, match="local takes an outer step"):
            as_outer(value, "local")  # type: ignore[arg-type]


@pytest.mark.usefixtures("forget")
def test_an_outer_step_of_ones_own() -> None:
    """A stranger's outer step registers, is read from a spec, and moves an anchor."""

    @gw.register("halfway", "outer", example="halfway")
    @dataclass(frozen=True)
    class Halfway:
        """Move by half of the mean."""

        def init(self, layout: gw.Layout, dtype: torch.dtype = torch.float32, device: object = "cpu") -> gw.State:
            return {}

        def __call__(self, anchor: torch.Tensor, mean: gw.Dense, state: gw.State, size: int) -> None:
            mean.add_to_(anchor, alpha=-0.5)

    found = as_outer("halfway", "local")
    assert found == Halfway()
    assert torch.equal(moved(found, gw.Dense(torch.ones(3))), -0.5 * torch.ones(3))
