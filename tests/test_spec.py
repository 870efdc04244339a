"""Specs: what is read, and what is refused in one sentence."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradwire as gw
from gradwire import spec as specs


@pytest.mark.parametrize(
    ("spec", "exchange"),
    [
        ("ef(deft(density=0.01))", gw.EF(gw.DEFT(0.01))),
        ("ef(deft(0.01))", gw.EF(gw.DEFT(0.01))),
        ("EF(DEFT(density=0.01))", gw.EF(gw.DEFT(0.01))),
        ("  mean ", gw.Mean()),
        ("mean()", gw.Mean()),
        ("topk(0.1)", gw.Gathered(gw.TopK(0.1))),
        ("gathered(top_k(0.1, values='natural'))", gw.Gathered(gw.TopK(0.1, "natural"))),
        ("shared_randk(0.5, unbiased=False)", gw.SharedRandK(0.5, unbiased=False)),
        ("diana(natural, alpha=0.5)", gw.Shifted(gw.Gathered(gw.Natural()), gw.Follow(0.5))),
        ("shifted(randk(0.1), restart(p=none))", gw.Shifted(gw.Gathered(gw.RandK(0.1)), gw.Restart())),
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


def test_every_part_has_an_example_and_a_line_of_documentation() -> None:
    parts = {name: make for kind in specs.REGISTRY.values() for name, make in kind.items()}
    assert parts.keys() == specs.EXAMPLES.keys()
    for name, example in specs.EXAMPLES.items():
        assert name in example
        assert gw.parse(example)
        assert parts[name].__doc__.split("\n")[0].endswith(".")


def test_the_registry_knows_every_public_part() -> None:
    known = {make for kind in specs.REGISTRY.values() for make in kind.values()}
    protocols = {gw.Compressor, gw.Exchange}
    for name in gw.__all__:
        part = vars(gw)[name]
        constructs = isinstance(part, type) and {"delta", "omega"} <= set(dir(part)) and part not in protocols
        assert not constructs or part in known, name


def test_attach_refuses_what_is_not_ddp() -> None:
    with pytest.raises(TypeError, match="DistributedDataParallel, got Linear"):
        gw.attach(torch.nn.Linear(2, 2), "mean")  # type: ignore[arg-type]
