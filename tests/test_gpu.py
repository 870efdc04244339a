"""The GPU's loops: their laws in Triton's interpreter, that they compile, and on a GPU the real loops.

gpu_twins.py, which runs in separate processes, says what is compared with what.
"""

from __future__ import annotations

import ast
import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import gradwire
from gradwire.kernels import gpu

TWINS = Path(__file__).with_name("gpu_twins.py")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def twins(**environment: str) -> str:
    command = [sys.executable, "-m", "pytest", str(TWINS), "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=230, env={**os.environ, **environment})
    assert ended.returncode == 0, ended.stdout[-5000:]
    return ended.stdout


@needs_triton
def test_twins_by_the_interpreter() -> None:
    assert "passed" in twins(TRITON_INTERPRET="1", OMP_NUM_THREADS="1")


@needs_triton
@needs_gpu
def test_twins_on_a_gpu() -> None:
    assert "passed" in twins(TRITON_INTERPRET="0")


# ---- the loops compile, on a machine without a GPU too

POINTERS = {
    "allowed": "i64", "bases": "i64", "bits": "i32", "counts": "i32", "flags": "u8", "indices": "i64", "key": "i64",
    "magnitudes": "i32", "need": "i64", "offsets": "i64", "order": "i64", "owner": "i64",
    "prefix": "i32", "sums": "fp64", "table": "i64", "target": "fp32", "threshold": "i32", "totals": "i64",
    "values": "fp32", "wanted": "i64", "wire": "u8", "words": "i32",
}  # fmt: skip
NUMBERS = {
    "alpha": "fp32",
    "count": "i64",
    "low": "i32",
    "nbytes": "i64",
    "shift": "i32",
    "spans": "i32",
    "width": "i32",
}
NARROW, DIGITS = {"values": "*i64"}, {"counts": "*i64"}

LOOPS: list[tuple[str, dict[str, int], dict[str, str]]] = [
    ("loops.guess", {"SAMPLE": 256}, {}),
    ("loops.guess", {"SAMPLE": 8192}, {}),
    ("loops.count", {"TIES": False, "BLOCK": 4096}, {}),
    ("loops.count", {"TIES": True, "BLOCK": 4096}, {}),
    ("loops.scan", {"TIES": False, "STEP": 2048}, {}),
    ("loops.scan", {"TIES": True, "STEP": 32}, {}),
    ("loops.write", {"TIES": False, "MAGNITUDES": True, "BLOCK": 4096}, {}),
    ("loops.write", {"TIES": True, "MAGNITUDES": False, "BLOCK": 4096}, {}),
    ("loops.histogram", {"BLOCK": 4096}, DIGITS),
    ("loops.pick", {}, DIGITS),
    ("loops.squares", {"BLOCK": 4096}, {}),
    ("loops.gather", {"STEP": 32}, {"totals": "*fp64"}),
    ("words.pack", {"BLOCK": 1024}, NARROW),
    ("words.unpack", {"BLOCK": 1024}, NARROW),
    ("words.pack_flags", {"BLOCK": 1024}, {}),
    ("words.pack_flags", {"BLOCK": 1024}, {"flags": "*fp32"}),
    ("words.unpack_flags", {"BLOCK": 1024}, {}),
    ("words.bitmap", {"GAPS": False, "BLOCK": 1024}, {}),
    ("words.bitmap", {"GAPS": True, "BLOCK": 1024}, {}),
    ("words.round_natural", {"BLOCK": 128}, {}),
    ("words.read_natural", {"BLOCK": 1024}, {}),
    ("words.add", {"BLOCK": 1024}, {}),
    ("words.add_sorted", {"BLOCK": 1024}, {}),
]


@needs_triton
@pytest.mark.parametrize("single", [False, True], ids=["numbers", "ones"])
@pytest.mark.parametrize(("name", "constants", "types"), LOOPS, ids=lambda part: str(part) if part else "")
def test_every_loop_compiles(
    name: str, constants: dict[str, int], types: dict[str, str], single: bool, tmp_path: Path, monkeypatch: Any
) -> None:
    """They compile to the machine code of an H100. Arguments of 1 become constants at a launch, and
    compile separately.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("the interpreter compiles nothing")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    loop = compiled_loop(name)
    ones = dict.fromkeys((set(NUMBERS) - {"alpha"}) & set(loop.arg_names), 1) if single else {}
    if single and not ones:
        pytest.skip("takes no number")
    known = {**{arg: f"*{kind}" for arg, kind in POINTERS.items()}, **NUMBERS, **types}
    fixed = {**constants, **ones}
    signature = {arg: "constexpr" if arg in fixed else known[arg] for arg in loop.arg_names}
    source = ASTSource(fn=loop, signature=signature, constexprs=fixed)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
    assert ".target sm_90" in made.asm["ptx"]
    assert len(made.asm["cubin"]) > 1000
    assert made.metadata.shared <= 48 << 10


def compiled_loop(name: str) -> Any:
    from gradwire.kernels.gpu import loops, words

    file, loop = name.split(".")
    return getattr({"loops": loops, "words": words}[file], loop)


@needs_triton
def test_every_loop_is_listed() -> None:
    from gradwire.kernels.gpu import loops, words

    defined = {
        f"{file.__name__.rsplit('.', 1)[1]}.{name}"
        for file in (loops, words)
        for name, found in vars(file).items()
        if hasattr(found, "arg_names") and not name.startswith("_")
    }
    assert defined == {name for name, _, _ in LOOPS}


# ---- Triton comes when it is needed, and only there


def test_two_files_import_triton() -> None:
    source = Path(gradwire.__file__).parent
    importers = {
        file.relative_to(source).as_posix()
        for file in source.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        if name.split(".")[0] == "triton"
    }
    assert importers == {"kernels/gpu/loops.py", "kernels/gpu/words.py"}


def test_importing_gradwire_does_not_import_triton() -> None:
    script = (
        "import sys, torch; had = 'triton' in sys.modules; import gradwire; print(had or 'triton' not in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.strip() == "True"


def test_vectors_in_the_hosts_memory_are_not_served() -> None:
    assert not gpu.serves(torch.ones(9))


def test_without_triton_one_warning_says_what_it_costs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gpu, "on_gpu", lambda x: True)
    monkeypatch.setitem(sys.modules, "triton", None)
    for file in ("loops", "words", "sums"):
        monkeypatch.delitem(sys.modules, f"gradwire.kernels.gpu.{file}", raising=False)
    gpu.ready.cache_clear()
    with caplog.at_level(logging.WARNING, "gradwire"):
        assert not gpu.serves(torch.ones(9))
        assert not gpu.serves(torch.ones(9))
    gpu.ready.cache_clear()
    (record,) = caplog.records
    assert "several times as long as with Triton" in record.getMessage()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_benchmark_says_that_there_is_no_gpu() -> None:
    file = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
    ended = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=True, timeout=120)
    assert (
        ended.stdout.strip() == "This machine has no GPU that torch can use: nothing was measured and nothing written."
    )
