"""A stranger's package: its parts are specs, obey the laws, train on real ranks, and are listed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from story import play
from stranger import install

import gradwire as gw
from gradwire import spec

SPECS = ["mine(density=0.2)", "ef(mine(density=0.2))", "heavy(mine(density=0.2), beta=0.25)", "heavy(ef(topk(0.1)))"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget: None) -> Path:
    """Return the folder of an installed package that this process has not imported."""
    install(tmp_path, "strangeparts")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delitem(sys.modules, "strangeparts", raising=False)
    return tmp_path


@pytest.mark.parametrize("text", SPECS)
def test_a_strangers_spec_is_read_and_its_repr_is_one(text: str, installed: Path) -> None:
    found = gw.parse(text)
    assert gw.parse(repr(found)) == found


def test_a_strangers_refusals_are_a_specs(installed: Path) -> None:
    for text, sentence in (
        ("mine(2)", r"in the spec 'mine\(2\)': density must lie in \(0, 1\], got 2"),
        ("heavy(3)", "heavy takes an exchange or a compressor, got 3"),
        ("mine(wide=1)", "mine takes density; in the spec"),
        ("mien(0.1)", "did you mean 'mine'"),
        ("shifted(natural, mine(0.1))", r"shifted takes a rule \(fixed, follow, restart\), got Mine"),
    ):
        with pytest.raises(gw.SpecError, match=sentence):
            gw.parse(text)


@pytest.mark.parametrize("text", SPECS)
@pytest.mark.parametrize("batched", [False, True], ids=["lockstep", "batched"])
def test_a_strangers_parts_obey_the_law(text: str, batched: bool, installed: Path) -> None:
    layout = gw.Layout(["square", "bias"], [(13, 13), (7,)])
    sim = gw.Simulator(text, layout, workers=3, seed=5, batched=batched)
    for step in range(4):
        found = sim.step(torch.randn(3, layout.d, generator=torch.Generator().manual_seed(step)))
        torch.testing.assert_close(found.own.mean(0), found.mean)


def test_a_strangers_bytes_are_as_many_as_it_says(installed: Path) -> None:
    operator, turn = spec.operator("mine(density=0.2)"), gw.Turn(0, 1, 0, gw.Layout(["x"], [(40,)]))
    x = torch.randn(40, generator=torch.Generator().manual_seed(0))
    wire = operator.encode(x, turn)
    assert len(wire) == operator.nbytes(40)
    kept = operator.decode(wire, 40).dense()
    assert torch.equal(kept, torch.where(kept != 0, x, 0.0))
    assert (kept != 0).sum() == 8


def test_the_command_line_lists_a_strangers_parts(installed: Path) -> None:
    install(installed, "brokenparts", "raise RuntimeError('no such luck')")
    install(installed, "wrongparts", WRONG)
    ended = command_line("list", cwd=installed)
    assert ended.returncode == 0, ended.stderr
    assert "the parts of brokenparts cannot be loaded: RuntimeError: no such luck" in ended.stderr
    for line in ("mine", "from strangeparts.Mine", "for example ef(mine(density=0.1))", "from strangeparts.Heavy"):
        assert line in ended.stdout
    assert "unknown name 'wrogn' in the spec 'wrogn'; did you mean 'wrong'?" in ended.stdout
    assert "topk" in ended.stdout


def test_without_the_command_lines_packages_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('typer is not installed', name='typer')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    ended = command_line("list", cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == "the command line needs typer: pip install 'gradwire[cli]'\n"


@pytest.mark.story
def test_a_strangers_parts_train_and_resume_bit_equally(installed: Path) -> None:
    """On two ranks under DDP, with a checkpoint and a restart in the middle. No rank imports the package itself."""
    specs = ["ef(mine(density=0.2))", "heavy(mine(density=0.2))"]
    for line in play("resume_is_bit_equal", *specs, ranks=2):
        assert line["result"] == dict.fromkeys(specs, True)


WRONG = """
import gradwire

@gradwire.register("wrong", "exchange", example="wrogn")
def wrong():
    \"\"\"A part whose example cannot be read.\"\"\"
    return gradwire.exchange.Mean()
"""


def command_line(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m gradwire` on a wide terminal."""
    env = {**os.environ, "COLUMNS": "200", "TERM": "dumb"}
    command = [sys.executable, "-m", "gradwire", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=100)
