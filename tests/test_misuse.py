"""Loops that would let ranks part without a word: each is refused in a sentence, whatever the number of ranks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

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
        with pytest.raises(
            RuntimeError,
            match=r"was changed, for example by clipping.*idle.bias, idle.weight got no.*; pass find_unused",
        ):
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
                with pytest.raises(RuntimeError, match="its closure has run backward without a gradient of"):
                    optimizer.step(closure)
    assert not caplog.records  # gradients have come, though none was there when the step began


@pytest.mark.parametrize("wrap", [lambda net: net, DistributedDataParallel])
@pytest.mark.parametrize("way", ["kept", "no_sync", "rollback", "closure", "no memory", "not finite", "loaded"])
def test_means_that_are_thrown_away_are_told_of(
    wrap: Callable[[nn.Module], nn.Module], way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A generator's pass through its discriminator leaves a residual there; said once, and not where it does not."""
    net = Partly().busy
    run, optimizer = wrap(net), sgd(net)
    with gw.attach(run, "mean" if way == "no memory" else SPARSE) as hook, caplog.at_level(logging.WARNING):
        for _ in range(3):
            with hook.no_sync():  # accumulated, as often as one likes
                backward(run)
            optimizer.step((lambda: backward(run)) if way == "closure" else (lambda: None))
            if way != "closure":
                backward(run)
                optimizer.step()
            optimizer.zero_grad()
            if way in ("kept", "no memory", "rollback"):
                backward(run)
            if way == "not finite":
                (run(torch.ones(4, 5)) * float("inf")).sum().backward()
            if way == "no_sync":
                with hook.no_sync():
                    backward(run)
            if way == "loaded":
                hook.load_state_dict({**hook.state_dict(), "step": 99})
            if way == "rollback":
                assert hook.rollback()
            optimizer.zero_grad()
    told = [record for record in caplog.records if "no optimizer has used the means" in record.message]
    assert len(told) == (way == "kept")


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


def test_what_is_unfrozen_under_ddp_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """DDP does not average such a parameter, with or without gradwire."""
    net = Partly().busy
    net[0].requires_grad_(False)
    ddp = DistributedDataParallel(net)
    with gw.attach(ddp, SPARSE), caplog.at_level(logging.WARNING):
        optimizer = sgd(net)
        for step in range(4):
            net[0].requires_grad_(step > 1)
            optimizer.zero_grad()
            backward(ddp)
            optimizer.step()
            assert len(caplog.records) == (step > 1)
    assert "parameter '0.weight' was frozen when DDP wrapped the model" in caplog.text


def test_a_hook_is_not_attached_in_inference_mode() -> None:
    """Its memory could not be written in training."""
    net = Partly().busy
    with torch.inference_mode():
        for call in (lambda: gw.attach(net, SPARSE), lambda: gw.local(net, sgd(net))):
            with pytest.raises(RuntimeError, match=r"call gradwire\.(attach|local) outside of torch\.inference_mode"):
                call()


def test_a_parameter_that_is_unfrozen_under_local_steps_is_refused() -> None:
    net = Partly().busy
    net[0].requires_grad_(False)
    optimizer = sgd(net)
    local = gw.local(net, optimizer, every=2)
    for _ in range(2):
        backward(net)
        optimizer.step()
    net[0].requires_grad_(True)
    backward(net)
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"parameter '0.weight' was frozen when local steps began, .* close before"):
        optimizer.step()
    local.close()


def test_a_parameter_takes_local_steps_once_with_an_optimizer() -> None:
    """With another one it may, as when one trainer follows another."""
    net = Partly()
    optimizer = sgd(net)
    with gw.local(net, optimizer):
        with pytest.raises(ValueError, match=r"'busy.2.bias' takes local steps with this optimizer already: close"):
            gw.local(net, optimizer)
        gw.local(net, sgd(net)).close()
    gw.local(net, optimizer).close()


def test_rounds_that_are_closed_cannot_be_finished() -> None:
    """That is said once, and spoils nothing: the state stays readable. To close inside a context is fine."""
    net = Partly().busy
    with gw.local(net, sgd(net)) as local:
        local.finish()
        local.close()
    with pytest.raises(RuntimeError, match="these local steps are closed: finish the round before close"):
        local.finish()
    assert local.state_dict()["step"] == local.step


@pytest.mark.parametrize("options", [{}, {"delay": 2, "catch_up": "add"}, {"outer": "nesterov"}])
def test_weights_that_are_loaded_stay_if_rounds_restart(options: dict[str, object]) -> None:
    net = Partly().busy
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with gw.local(net, optimizer, every=3, **options) as local:
        for _ in range(4):
            backward(net)
            optimizer.step()
        loaded = {name: torch.full_like(part, 2.0) for name, part in net.state_dict().items()}
        net.load_state_dict(loaded)
        local.restart()
        optimizer.param_groups[0]["lr"] = 0.0
        for _ in range(7):
            optimizer.step()
        assert local.finish()
        assert local.local_steps == 11
    for name, part in net.state_dict().items():
        assert torch.equal(part, loaded[name])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_rounds_see_a_module_that_is_converted(dtype: torch.dtype) -> None:
    """`module.to` puts the values of parameters elsewhere, and many modules replace their buffers."""
    net = Partly().busy
    net.register_buffer("seen", torch.zeros(2))
    optimizer = sgd(net)
    with gw.local(net, optimizer, every=1) as local:
        net.to(dtype)
        net.seen = torch.ones(2, dtype=dtype)
        for param in net.parameters():
            param.grad = torch.ones_like(param)
        optimizer.step()
        assert local.step == 1
        for unit in local.engine.all_units():
            values = torch.cat([tensor.detach().flatten() for tensor in unit.tensors])
            assert torch.equal(unit.anchor.to(dtype), values)
            assert unit.memory["error"].any()
        assert torch.equal(local.engine.buffers.real[0], net.seen)


def test_a_parameter_is_attached_once() -> None:
    net = Partly()
    with gw.attach(net, SPARSE):
        for again in (net, net.busy, nn.ModuleList([net])):
            with pytest.raises(ValueError, match=r"parameter '.*' is attached already: close its hook first"):
                gw.attach(again, SPARSE)
    gw.attach(net, SPARSE).close()
