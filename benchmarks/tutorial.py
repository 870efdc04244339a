"""Follow docs/tutorial.md: write its files, run its commands, draw its figures, and record the output.

python benchmarks/tutorial.py
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rows import RESULTS

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "tutorial.md"
DENSE, LOCAL = (5, 10, 20, 40), (100, 250, 500, 1000)
"""Numbers of steps of the runs at 10 Mbit/s. Each run starts from scratch, like the page's commands."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder))
    (RESULTS / "tutorial.json").write_text(json.dumps(results, indent=1) + "\n")
    write(results)
    draw(results)


def files(page: str) -> dict[str, str]:
    """The page's files by name: a titled block is a file, or, if it is a diff, the last file with these changes."""
    found: dict[str, str] = {}
    last = ""
    for kind, name, body in re.findall(r'```(\w+) title="(\S+)"\n(.*?)```', page, re.DOTALL):
        found[name] = changed(found[last], body) if kind == "diff" else body
        last = name if name != "link.py" else last
    return found


def changed(source: str, diff: str) -> str:
    """Apply the hunks of a diff, separated by "..." lines, to a source; each must match exactly one place."""
    for hunk in re.split(r"^\.\.\.\n", diff, flags=re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        before, after = ("".join(line[1:] or "\n" for line in lines if line[0] not in sign) for sign in ("+", "-"))
        if source.count(before) != 1:
            raise ValueError(f"these lines stand at {source.count(before)} places, not at one:\n{before}")
        source = source.replace(before, after)
    return source


def run(folder: Path, command: str) -> str:
    """Run a command of the page; return its output."""
    words = command.split()
    done = subprocess.run([sys.executable, *words[1:]], cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def numbers(line: str) -> dict[str, float]:
    """Parse the output of a run: milliseconds and bytes a step, and the loss."""
    found = re.fullmatch(r"([\d.]+) ms(?: and ([\d,]+) bytes)? a step, held-out loss ([\d.]+)", line)
    if not found:
        raise ValueError(f"no line of a run: {line!r}")
    return {"ms": float(found[1]), "bytes": float((found[2] or "0").replace(",", "")), "loss": float(found[3])}


def measure(folder: Path) -> dict[str, Any]:
    for name, text in files(PAGE.read_text()).items():
        (folder / name).write_text(text)
    commands = ["python plain.py 500", "python link.py dense.py 200 10gbit"]
    commands += [f"python link.py dense.py {steps} 10mbit" for steps in DENSE]
    commands += [f"python link.py local.py {steps} 10mbit" for steps in LOCAL]
    printed: dict[str, str] = {}
    for command in commands:
        printed[command] = run(folder, command)
        print(f"$ {command}\n{printed[command]}", flush=True)
    return {"printed": printed}


def blocks(results: Mapping[str, Any]) -> dict[str, str]:
    """The texts between the page's markers, by name."""
    printed: Mapping[str, str] = results["printed"]

    def shown(*commands: str) -> str:
        return "```text\n" + "".join(f"{printed[command]}\n" for command in commands) + "```\n"

    slow, ours = "python link.py dense.py 40 10mbit", "python link.py local.py 1000 10mbit"
    dense, local = numbers(printed[slow]), numbers(printed[ours])
    headline = (
        f"In {40 * dense['ms'] / 1000:.0f} seconds dense DDP takes 40 steps and reaches a held-out loss of {dense['loss']:.2f} "
        f"nats a byte. In {1000 * local['ms'] / 1000:.0f} seconds `local`\ntakes 1,000 steps and reaches {local['loss']:.2f}. "
        f"It sends {dense['bytes'] / local['bytes']:,.0f} times fewer bytes a step, network headers included.\n"
    )
    return {
        "plain": shown("python plain.py 500"),
        "dense": shown("python link.py dense.py 200 10gbit", slow),
        "local": shown(ours),
        "headline": headline,
    }


def write(results: Mapping[str, Any]) -> None:
    page = PAGE.read_text()
    for name, text in blocks(results).items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page = marked.sub(lambda found, text=text: found[1] + text + found[2], page)
    PAGE.write_text(page)


def draw(results: Mapping[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    runs = {tuple(command.split()[1:]): numbers(line) for command, line in results["printed"].items()}
    plt.rcParams.update({"font.size": 12, "axes.spines.top": False, "axes.spines.right": False})
    bars = {
        "one rank, no network": runs["plain.py", "500"]["ms"],
        "dense DDP, 10 Gbit/s": runs["link.py", "dense.py", "200", "10gbit"]["ms"],
        "dense DDP, 10 Mbit/s": runs["link.py", "dense.py", "40", "10mbit"]["ms"],
        "gradwire.local, 10 Mbit/s": runs["link.py", "local.py", "1000", "10mbit"]["ms"],
    }
    figure, axes = plt.subplots(figsize=(9, 2.6), layout="constrained")
    axes.barh(list(bars), list(bars.values()), color=["#30638e"] * 3 + ["#d1495b"], height=0.6)
    for place, ms in enumerate(bars.values()):
        axes.annotate(f" {ms:.1f} ms", (ms, place), va="center")
    axes.set(xlabel="milliseconds a step", xlim=(0, 1.15 * max(bars.values())))
    axes.invert_yaxis()
    figure.savefig(DOCS / "figures" / "tutorial-step.png", dpi=160)
    figure, both = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for script, label, colour in (("dense.py", "dense DDP", "#30638e"), ("local.py", "gradwire.local", "#d1495b")):
        found = [(int(key[2]), one) for key, one in runs.items() if key[1:2] == (script,) and key[-1] == "10mbit"]
        losses = [one["loss"] for _, one in found]
        both[0].plot([steps * one["ms"] / 1000 for steps, one in found], losses, "o-", color=colour, label=label)
        both[1].plot([steps * one["bytes"] / 1e6 for steps, one in found], losses, "o-", color=colour, label=label)
    both[0].set(xlabel="seconds of training", ylabel="held-out loss, nats a byte")
    both[1].set(xlabel="MB sent by a rank (logarithmic)", xscale="log")
    both[0].legend(frameon=False)
    figure.savefig(DOCS / "figures" / "tutorial-loss.png", dpi=160)


if __name__ == "__main__":
    main()
