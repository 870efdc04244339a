"""Build the sdist and the wheel into dist/, and try the wheel as a stranger would: alone, in a fresh environment.

    python scripts/dist.py

Fails if the metadata cannot be rendered, if the wheel lacks py.typed or carries tests, if anything it needs is not
among its requirements, or if it does not compress.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SMOKE = """
import importlib.util
import torch
import gradwire as gw

layout = gw.Layout(["weight", "bias"], [(100, 80), (80,)])
sim = gw.Simulator("diana(randk(density=0.1))", layout, workers=10)
sent = sim.step(torch.randn(10, layout.d))
assert torch.allclose(sent.own.mean(0), sent.mean, atol=1e-5)
assert 0 < sim.ledger.bytes < layout.d
assert importlib.util.find_spec("typer") is None, "the wheel alone needs no command line"
print(f"gradwire {gw.__version__} compresses with torch {torch.__version__}")
"""


def main() -> None:
    """Build, check, install, run."""
    dist = ROOT / "dist"
    for old in dist.glob("gradwire-*"):
        old.unlink()
    run(sys.executable, "-m", "build", "--outdir", dist, ROOT)
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(dist.glob("gradwire-*")))
    (wheel,) = dist.glob("gradwire-*.whl")
    check(zipfile.ZipFile(wheel).namelist())
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder) / "fresh", with_pip=True)
        python = Path(folder) / "fresh" / "bin" / "python"
        quiet = ("--quiet", "--disable-pip-version-check")
        run(python, "-m", "pip", "install", *quiet, "--constraint", ROOT / "constraints.txt", wheel)
        run(python, "-m", "pip", "check")
        run(python, "-c", SMOKE, folder=folder)
        refused = subprocess.run([python.parent / "gradwire", "list"], capture_output=True, text=True, cwd=folder)
        if "pip install 'gradwire[cli]'" not in refused.stderr:
            sys.exit(f"without the command line's packages, gradwire must say how to get them, said {refused.stderr!r}")
    print("the distributions are good:", *(file.name for file in sorted(dist.glob("gradwire-*"))))


def check(names: list[str]) -> None:
    """Refuse a wheel that is not typed or holds more than the package."""
    if "gradwire/py.typed" not in names:
        sys.exit("the wheel has no gradwire/py.typed: type checkers would not read its annotations")
    others = [name for name in names if not name.startswith(("gradwire/", "gradwire-"))]
    if others or (tests := [name for name in names if "test_" in name]):
        sys.exit(f"the wheel holds more than the package: {', '.join(others or tests)}")


def run(*command: str | Path, folder: str | None = None) -> None:
    """Run a command, and end with its code if it fails."""
    done = subprocess.run([str(part) for part in command], cwd=folder)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
