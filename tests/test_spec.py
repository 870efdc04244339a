"""Specs: what is read, and what is refused in one sentence."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradwire as gw
from gradwire import checkpoint
from gradwire import spec as specs


@pytest.mark.parametrize(
    ("spec", "exchange"),
    [
        ("ef(deft(density=0.01))", gw.memory.EF(gw.exchange.DEFT(0.01))),
        ("ef(deft(0.01))", gw.memory.EF(gw.exchange.DEFT(0.01))),
        ("EF(DEFT(density=0.01))", gw.memory.EF(gw.exchange.DEFT(0.01))),
        ("  mean ", gw.exchange.Mean()),
        ("mean()", gw.exchange.Mean()),
        ("topk(0.1)", gw.exchange.Gathered(gw.compress.TopK(0.1))),
        ("gathered(top_k(0.1, values='natural'))", gw.exchange.Gathered(gw.compress.TopK(0.1, "natural"))),
        ("shared_randk(0.5, unbiased=False)", gw.exchange.SharedRandK(0.5, unbiased=False)),
        (
            "diana(natural, alpha=0.5)",
            gw.memory.Shifted(gw.exchange.Gathered(gw.compress.Natural()), gw.memory.Follow(0.5)),
        ),
        (
            "shifted(randk(0.1), restart(p=none))",
            gw.memory.Shifted(gw.exchange.Gathered(gw.compress.RandK(0.1)), gw.memory.Restart()),
        ),
    ],
)
def test_specs_are_read(spec: str, exchange: gw.Exchange) -> None:
    assert gw.parse(spec) == exchange


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "cannot read the spec"),
        ("ef(", "cannot read the spec"),
        ("ef(topk(0.1)", "cannot read the spec"),
        ("tokp(0.1)", "did you mean 'topk'"),
        ("frobnicate", "known are"),
        ("topk", "missing a required argument: 'density'"),
        ("topk(0)", r"density must lie in \(0, 1\], got 0"),
        ("topk(1.5)", r"density must lie in \(0, 1\], got 1.5"),
        ("ef(deft(density=0))", r"density must lie in \(0, 1\], got 0"),
        ("topk(density='much')", r"density must lie in \(0, 1\], got much"),
        ("topk(0.1, colour=3)", "topk takes density, values"),
        ("topk(**{'density': 0.1})", "cannot read"),
        ("topk(0.1, 'int8')", "values must be one of"),
        ("ef(3)", "ef takes an exchange or a compressor, got 3"),
        ("gathered(deft(0.1))", "gathered takes a compressor"),
        ("shifted(topk(0.1), topk(0.1))", "shifted takes a rule"),
        ("follow(0.5)", "not an exchange or a compressor"),
        ("0.5", "not an exchange or a compressor"),
        ("1 + 1", "only names, calls and literals"),
        ("topk(0.1).encode", "only names, calls and literals"),
        ("[topk(0.1)]", "only names, calls and literals"),
        ("__import__('os').system('true')", "only names, calls and literals"),
        ("eval('1')", "unknown name 'eval'"),
        ("restart(p=2)", r"p must lie in \(0, 1\], got 2"),
        ("diana(randk(0.1), alpha=0)", r"alpha must lie in \(0, 1\], got 0"),
        ("(" * 500 + ")" * 500, "cannot read"),
        ("-" * 400 + "1", "cannot read|only names"),
        ("1" + "+1" * 400, "cannot read|only names"),
        ("a" + "()" * 400, "cannot read|only names"),
        ("0x" + "f" * 5000, "cannot read a spec of 5002 characters"),
        ("sharedrandk(0.5, unbiased='x')", "unbiased must be true or false, got 'x'"),
    ],
)
def test_bad_specs_are_refused_in_one_sentence(spec: str, message: str) -> None:
    with pytest.raises(gw.SpecError, match=message) as refused:
        gw.parse(spec)
    assert "\n" not in str(refused.value)


@given(st.text(max_size=40))
def test_no_text_makes_anything_but_a_spec_error(text: str) -> None:
    with suppress(gw.SpecError):
        gw.parse(text)


@pytest.mark.parametrize(("name", "meant"), specs.ALSO_KNOWN_AS.items())
def test_the_fields_other_names_are_answered_by_a_spec_to_write(name: str, meant: str) -> None:
    assert gw.parse(meant)
    with pytest.raises(gw.SpecError, match=rf"unknown name '{name}' in .*; did you mean {re.escape(meant)}\?$"):
        gw.parse(f"{name}(0.1)")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("qsgd(s=4)", r"did you mean dithering\(s=16\)\?"),
        ("All_Reduce", r"did you mean mean\?"),
        ("error_feedback(topk(0.1))", r"did you mean ef\(topk\(density=0.01\)\)\?"),
        ("SignSGD", r"did you mean scaledsign\?"),
        ("randomk_(0.1)", r"did you mean randk\(density=0.1\)\?"),
        ("quantise(4)", r"did you mean dithering\(s=16\)\?"),
        ("none", "without compression it is mean"),
        ("None", "without compression it is mean"),
    ],
)
def test_who_uses_another_word_is_told_ours(spec: str, message: str) -> None:
    with pytest.raises(gw.SpecError, match=message):
        gw.parse(spec)


@pytest.mark.parametrize(
    ("saved", "today"),
    [
        (
            "EF(exchange=Ramp(exchange=Deft(density=0.01), steps=400, start=0.25, factor=4.0))",
            "EF(exchange=Warmup(exchange=DEFT(density=0.01), steps=400, start=0.25, factor=4.0))",
        ),
        ("Guard(exchange=EF(exchange=Micro(density=0.01)))", "Guard(exchange=EF(exchange=MiCRO(density=0.01)))"),
        ("DGC(exchange=Gathered(compressor=TopK(density=0.1, values='float32')))",) * 2,
        ("MyRamp(density=0.1)", "MyRamp(density=0.1)"),
        ("auto", "auto"),
    ],
)
def test_what_old_checkpoints_call_an_exchange_is_understood(saved: str, today: str) -> None:
    assert checkpoint.modern(saved) == today
    assert checkpoint.modern(today) == today
    if saved != today:
        assert repr(gw.parse(today)).startswith(today[:20])


def test_attach_refuses_what_is_no_module() -> None:
    with pytest.raises(TypeError, match="wrapped in DistributedDataParallel or bare, got Tensor"):
        gw.attach(torch.zeros(2), "mean")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'auto' takes a model wrapped in DistributedDataParallel, got Linear"):
        gw.attach(torch.nn.Linear(2, 2), "auto")
    with pytest.raises(RuntimeError, match="init_process_group first"):
        gw.attach(torch.nn.Linear(2, 2), "mean")
