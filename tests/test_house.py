"""The house: what is public, who imports whom, what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import gradwire as gw
from gradwire import registry

SOURCE = Path(gw.__file__).parent


def imports(file: Path) -> set[str]:
    """Modules a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_all_is_complete_and_real() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    aliases = [alias for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(gw.__all__) == sorted(alias.asname or alias.name for alias in aliases)
    assert all(name in vars(gw) for name in gw.__all__)


def test_parts_have_one_address_each() -> None:
    """The package that defines them, not the top; our own code imports them from their modules, which has types."""
    for entry in registry.PARTS.values():
        if entry.origin.startswith("gradwire."):
            package, name = entry.origin.split(".")[1], entry.make.__name__
            assert getattr(vars(gw)[package], name) is entry.make
            assert name not in vars(gw)
    makers = {entry.make.__name__ for entry in registry.PARTS.values()}
    for file in SOURCE.rglob("*.py"):
        for package in ("compress", "exchange", "memory"):
            assert not imports(file) & {f"gradwire.{package}.{name}" for name in makers}, file


def test_only_the_hook_the_transport_and_the_lab_speak_torch_distributed() -> None:
    speakers = {
        file.relative_to(SOURCE).as_posix()
        for file in SOURCE.rglob("*.py")
        if any(name.startswith("torch.distributed") for name in imports(file))
    }
    laboratory = {"lab/rank.py", "lab/life.py", "lab/worker.py", "lab/training/rank.py"}
    laboratory |= {"lab/plain.py", "lab/bench/here.py", "lab/bench/race.py", "lab/bench/racer.py"}
    laboratory |= {"lab/advised.py", "lab/advising.py", "lab/silent.py"}
    advisers = {"advice/link.py", "advice/survey.py", "auto.py"}
    assert speakers == {"transport/process.py", "transport/group.py", "ddp.py", *advisers, *laboratory}


def test_nothing_is_unpickled() -> None:
    for file in SOURCE.rglob("*.py"):
        text = file.read_text()
        assert "pickle" not in text or file.name == "checkpoint.py", file
        assert text.count("torch.load(") == text.count("weights_only=True"), file


def test_importing_gradwire_brings_neither_plots_nor_the_command_line() -> None:
    script = (
        "import sys, gradwire; print([m for m in ('matplotlib', 'typer', 'rich', 'gradwire.lab') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.strip() == "[]"


def test_every_public_thing_is_documented() -> None:
    for name in gw.__all__:
        assert (vars(gw)[name].__doc__ or "").strip(), name
