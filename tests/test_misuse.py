"""Loops that would let ranks part without a word: each is refused in a sentence, whatever the number of ranks."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]
from torch.nn.parallel import DistributedDataParallel

import gradwire as gw

SPARSE = "ef(topk(density=0.1))"


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """A process group of this process."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Partly(nn.Module):
    """A layer that is not used, registered first, so that its gradient is the last to be expected."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.busy = nn.Linear(3, 3), nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.busy(x)


def backward(net: nn.Module) -> Tensor:
    loss = net(torch.ones(4, 5)).square().mean()
    loss.backward()
    return loss


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.1)


def test_clipping_what_is_not_averaged_yet_is_refused() -> None:
    """Some parameters are unused, so the exchange ends in `optimizer.step`: clipping would race against it."""
    net = Partly()
    with gw.attach(net, SPARSE):
        backward(net)
        nn.utils.clip_grad_norm_(net.parameters(), 0.01)
        with pytest.raises(RuntimeError, match=r"was changed, by clipping.*idle.bias, idle.weight; pass find_unused"):
            sgd(net).step()
    net = Partly()
    with gw.attach(net, SPARSE, find_unused_parameters=True) as hook:
        for _ in range(3):
            backward(net)
            nn.utils.clip_grad_norm_(net.parameters(), 0.01)
            sgd(net).step()
        assert hook.step == 3


def test_a_module_that_is_wrapped_after_attach_is_refused() -> None:
    """DDP writes its own means into the gradients that are exchanged."""
    net = Partly().busy
    with (
        gw.attach(net, SPARSE),
        pytest.raises(RuntimeError, match=r"changed while gradwire averaged it, as Distrib.*: wrap the module first"),
    ):
        backward(DistributedDataParallel(net))


def test_a_closure_whose_backward_pass_is_not_averaged_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    for early in (False, True):
        net = Partly()
        optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=3)

        def closure(net: nn.Module = net) -> Tensor:
            net.zero_grad()
            return backward(net)

        with gw.attach(net, SPARSE, find_unused_parameters=early) as hook, caplog.at_level(logging.WARNING):
            if early:
                optimizer.step(closure)
                assert hook.step >= 2
            else:
                with pytest.raises(RuntimeError, match="its closure has run backward, and no gradient has come of"):
                    optimizer.step(closure)
    assert not caplog.records  # gradients have come, though none was there when the step began


def test_what_is_unfrozen_after_attach_is_refused() -> None:
    net = Partly().busy
    net[0].requires_grad_(False)
    with gw.attach(net, SPARSE):
        optimizer = sgd(net)
        backward(net)
        optimizer.step()
        net[0].requires_grad_(True)
        backward(net)
        with pytest.raises(RuntimeError, match=r"parameter '0.weight' was frozen when gradwire was attached"):
            optimizer.step()


def test_a_parameter_is_attached_once() -> None:
    net = Partly()
    with gw.attach(net, SPARSE):
        for again in (net, net.busy, nn.ModuleList([net])):
            with pytest.raises(ValueError, match=r"parameter '.*' is attached already: close its hook first"):
                gw.attach(again, SPARSE)
    gw.attach(net, SPARSE).close()
