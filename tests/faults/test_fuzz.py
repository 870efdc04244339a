"""Whatever comes in, by a spec, a wire, a peer or a file: it is read, or refused with the error that is promised."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import zoo
from folder_ranks import same
from fuzz import budget, spoil
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import gradwire as gw
from gradwire.dcp.parts import assemble
from gradwire.spec import SpecError
from gradwire.testing import check_compressor, check_exchange

DECODES = ["any bytes decode inside d or are refused", "other lengths are refused"]
ANSWERS = ["corrupted answers are refused or stay inside d"]
PIECES = (
    *"(),='\" 0123456789.-+e_*[]{}:\\\n\0",
    "density", "topk", "ef", "none", "true", "1e9", "1e999", "-0.0", "**", "lambda",
    "2**99999", "warmup", "steps", "'natural'", "nan", "inf", "x if x else", "é", "\u202e", "ef(" * 50, "9" * 50,
)  # fmt: skip


@budget(400)
@given(st.data())
def test_specs_are_read_or_refused(data: st.DataObject) -> None:
    """Valid specs with pieces put in, taken out, doubled."""
    text = data.draw(st.sampled_from(zoo.SPECS))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(at, min(len(text), at + 8)))
        text = text[:at] + "".join(data.draw(st.lists(st.sampled_from(PIECES), max_size=3))) + text[end:]
    read_or_refused(text)


@budget(150)
@given(st.recursive(st.sampled_from(zoo.SPECS), lambda inner: st.builds("{}({})".format, st.sampled_from(
    ["ef", "diana", "ef21", "guard", "warmup", "dgc", "shifted", "chain", "gathered", "scaled"]), inner)))  # fmt: skip
def test_nested_specs_are_read_or_refused(text: str) -> None:
    read_or_refused(text)


def read_or_refused(text: str) -> None:
    try:
        exchange = gw.parse(text)
    except SpecError:
        return
    assert gw.parse(repr(exchange)) == exchange


@budget(5)
@given(st.sampled_from(zoo.COMPRESSORS), st.integers(0, 2**31))
def test_wires_are_decoded_inside_d_or_refused(compressor: gw.Compressor, seed: int) -> None:
    check_compressor(compressor, laws=DECODES, seed=seed)


@budget(12)
@given(st.sampled_from(zoo.SPECS), st.integers(0, 2**31))
def test_answers_of_peers_are_refused_or_stay_inside_d(spec: str, seed: int) -> None:
    check_exchange(spec, laws=ANSWERS, seed=seed)


# ---- checkpoints


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))


def trained(method: str) -> gw.Hook:
    """A rank alone that has taken four steps."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    alone = gw.Members()
    if method == "local":
        hook = gw.local(model, optimizer, every=2, exchange="ef(topk(density=0.2))", group=alone, delay=1)
    else:
        hook = gw.attach(model, method, group=alone)
    for number in range(5):
        model(torch.randn(4, 3, generator=torch.Generator().manual_seed(number))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return hook


METHODS = ("ef(topk(density=0.2))", "diana(randk(density=0.5))", "ef(micro(density=0.2))", "ef(powersgd)", "local")


@pytest.fixture(scope="module", params=METHODS)
def hook(request: pytest.FixtureRequest) -> Iterator[gw.Hook]:
    made = trained(request.param)
    yield made
    made.close()


def loaded_or_refused(hook: gw.Hook, saved: object) -> None:
    """A ValueError, and nothing has changed; or a state that is finite and saves again."""
    before = hook.state_dict()
    try:
        hook.load_state_dict(saved)
    except ValueError:
        assert same(hook.state_dict(), before)
        return
    after = hook.state_dict()
    values = [part for parts in after["memory"].values() for part in parts.values()]
    assert all(bool(value.isfinite().all()) and not value.requires_grad for value in values)
    hook.load_state_dict(after)
    hook.load_state_dict(before)
    assert same(hook.state_dict(), before)


@budget(60)
@given(data=st.data())
def test_state_dicts_are_loaded_or_refused(hook: gw.Hook, data: st.DataObject) -> None:
    loaded_or_refused(hook, spoil(data, hook.state_dict()))


@budget(60)
@given(data=st.data())
def test_checkpoints_are_merged_or_refused(hook: gw.Hook, data: st.DataObject) -> None:
    ranks = [{**hook.state_dict(), "rank": rank, "world_size": 2} for rank in range(2)]
    try:
        merged = gw.merge(spoil(data, ranks))
    except ValueError:
        return
    loaded_or_refused(hook, merged)


@budget(40)
@given(data=st.data())
def test_heads_of_distributed_checkpoints_are_read_or_refused(hook: gw.Hook, data: st.DataObject) -> None:
    state = hook.state_dict()
    words = {key: value for key, value in state.items() if key != "memory"}
    text = json.dumps(words, default=str).encode()
    at, size = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 4))
    text = text[:at] + data.draw(st.binary(max_size=4)) + text[at + size :]
    row = torch.frombuffer(bytearray(text.ljust(512)), dtype=torch.uint8)
    try:
        head = assemble(row, state["memory"], [])
    except ValueError:
        return
    loaded_or_refused(hook, head)


# ---- folders


@pytest.fixture(scope="module")
def folder(hook: gw.Hook, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saves") / "good"
    gw.save(hook, path)
    return path


def read_or_refuse_the_folder(hook: gw.Hook, folder: Path) -> None:
    before = hook.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(ValueError):
            gw.load(hook, folder)
    assert same(hook.state_dict(), before)


def copy_of(folder: Path) -> Path:
    """A folder beside it to be spoilt; the last one is gone."""
    bad = folder.with_name("bad")
    shutil.rmtree(bad, ignore_errors=True)
    return shutil.copytree(folder, bad)


@budget(40)
@given(data=st.data())
def test_folders_with_other_bytes_are_refused(hook: gw.Hook, folder: Path, data: st.DataObject) -> None:
    """A checksum over every file: with any byte changed, cut or added nothing is loaded that was not saved."""
    bad = copy_of(folder)
    file = bad / data.draw(st.sampled_from(sorted(each.name for each in folder.iterdir())))
    found = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(found) - 1))
    found[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    file.write_bytes(found)
    read_or_refuse_the_folder(hook, bad)


@budget(40)
@given(data=st.data())
def test_hostile_manifests_are_refused(hook: gw.Hook, folder: Path, data: st.DataObject) -> None:
    """Whoever forges a manifest forges its checksum too."""
    bad = copy_of(folder)
    found = json.loads((folder / "gradwire.json").read_text())
    body = json.loads(json.dumps(spoil(data, found["manifest"]), default=str))
    digest = hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=16).hexdigest()
    (bad / "gradwire.json").write_text(json.dumps({"blake2b": digest, "manifest": body}))
    read_or_refuse_the_folder(hook, bad)
