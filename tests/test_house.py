"""The house: what is public, which module imports which, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import gradwire as gw
from gradwire import registry

SOURCE = Path(gw.__file__).parent


def imports(file: Path) -> set[str]:
    """Return the modules that a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_all_is_complete_and_real() -> None:
    tree = ast.parse((SOURCE / "public.py").read_text())
    aliases = [alias for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(gw.__all__) == sorted(alias.asname or alias.name for alias in aliases)
    assert all(name in vars(gw) for name in gw.__all__)
    assert {*gw.__all__, "__version__"} <= {*dir(gw)}


def test_the_import_is_cheap_and_the_first_name_brings_them_all() -> None:
    script = (
        "import sys, gradwire; from gradwire import net; assert 'torch' not in sys.modules; gradwire.Layout;"
        "from gradwire import registry; assert {'topk', 'deft', 'ef', 'sgd'} <= {*registry.PARTS};"
        "assert not hasattr(gradwire, 'atach'); print(gradwire.__version__)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.strip() == gw.__version__


def test_parts_have_one_address_each() -> None:
    """It is the package that defines them, not the top. Our own code imports them from their modules,
    which have types.
    """
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
    laboratory = {"lab/remote.py", "lab/averager.py", "lab/comparison/trainer.py"}
    laboratory |= {"lab/ways/torchs.py", "lab/bench/run.py", "lab/bench/race.py", "lab/bench/racer.py"}
    laboratory |= {"lab/bench/advising.py"}
    advisers = {"advice/link.py", "advice/survey.py", "auto.py"}
    doors = {f"doors/{name}.py" for name in ("attach_local", "ddp", "fsdp", "gradient", "group")} | {"engine/shards.py"}
    doors |= {f"integrations/{name}.py" for name in ("gradients", "rounds", "accelerate")}
    transport = {f"transport/{name}.py" for name in ("process", "group", "members", "opening")}
    folders = {"transport/allranks.py", "folder/save.py", "folder/load.py"}
    folders |= {"dcp/grid.py", "dcp/source.py", "dcp/stateful.py"}
    assert speakers == {*transport, *folders, *doors, *advisers, *laboratory}


def test_the_engine_knows_no_wrapper_and_one_door_nothing_of_another() -> None:
    for file in (SOURCE / "engine").glob("*.py"):
        assert not {name for name in imports(file) if name.startswith(("torch.nn", "gradwire.doors"))}, file
        assert "bucket" not in file.read_text().lower(), file
    for door, others in (("ddp", "module"), ("module", "ddp"), ("hook", "attach"), ("local", "hook")):
        found = imports(SOURCE / "doors" / f"{door}.py")
        assert f"gradwire.doors.{others}" not in found
        assert not {name for name in found if name.startswith("gradwire.compress")}


def test_the_vocabulary_imports_no_kernels() -> None:
    for file in (SOURCE / "layout.py", *(SOURCE / "ask").glob("*.py")):
        found = {module for module in imports(file) if module.startswith("gradwire")}
        assert not {module for module in found if not module.startswith("gradwire.ask")}, file


def test_no_class_name_stands_for_two_things() -> None:
    found = [
        node.name
        for file in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    assert sorted(name for name in set(found) if found.count(name) > 1) == []


def test_nothing_is_unpickled() -> None:
    for file in SOURCE.rglob("*.py"):
        text = file.read_text()
        assert "pickle" not in text or file.name == "checkpoint.py", file
        assert text.count("torch.load(") == text.count("weights_only=True"), file


def test_importing_gradwire_brings_neither_plots_nor_the_command_line() -> None:
    others = ("matplotlib", "typer", "rich", "gradwire.lab", "gradwire.integrations")
    others += ("accelerate", "transformers", "lightning")
    script = f"import sys, gradwire; gradwire.attach; print([m for m in {others} if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.strip() == "[]"


def test_every_public_thing_is_documented() -> None:
    for name in gw.__all__:
        assert (vars(gw)[name].__doc__ or "").strip(), name
