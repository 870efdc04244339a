"""Write the tables of docs/adam.md between their markers, and draw its figure: python benchmarks/adam_page.py"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from adam_mechanism import EVERY, Adam
from rows import RESULTS

from gradwire.lab.studies.figures.draw import COLOURS, canvas

DOCS = Path(__file__).parents[1] / "docs"
TARGET = 300
"""Steps of the figure's coordinate."""


def main() -> None:
    page = DOCS / "adam.md"
    text = page.read_text()
    for name, table in tables().items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = marked.sub(lambda found, table=table: found[1] + table + found[2], text)
    page.write_text(text)
    draw(DOCS / "figures" / "adam-sparse.png")


def tables() -> Mapping[str, str]:
    """The page's tables, by the name of their markers."""
    return {"toy": toy(), "gpt": gpt(), "ways": ways()}


def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def toy() -> str:
    """A line for every ratio of signal to noise, a column for every beta2."""
    rows = [row for row in read("adam_mechanism")["toy"] if row["scale"] == 1.0]
    found = {(row["signal_to_noise"], row["beta2"]): row["net"] for row in rows}
    ratios, betas = (list(dict.fromkeys(keys)) for keys in zip(*found, strict=True))
    head = f"| signal / noise of one step | {' | '.join(f'beta2 = {beta2:g}' for beta2 in betas)} |\n"
    lines = [f"| {r:g} | {' | '.join(f'{found[r, beta2]:.3f}' for beta2 in betas)} |\n" for r in ratios]
    return head + "|---:|" + "---:|" * len(betas) + "\n" + "".join(lines)


def gpt() -> str:
    """A line for every shadow."""
    rows = [row for row in read("adam_mechanism")["gpt"] if not row["shadow"].startswith("dense")]
    lines = [
        f"| {row['shadow']} | {row['along_dense']:.2f} | {row['cosine']:.2f} | {row['median_path']:.2f} |\n"
        for row in rows
    ]
    head = "| the same gradients through | movement along dense's | cosine with it | path of the median coordinate |\n"
    return head + "|---|---:|---:|---:|\n" + "".join(lines)


def best() -> list[dict[str, Any]]:
    """For every method, the learning rate with the lowest final loss at the first seed, and all seeds' losses there."""
    runs, found = read("adam_sparse")["runs"], []
    for label in dict.fromkeys(run["label"] for run in runs):
        mine = [run for run in runs if run["label"] == label]
        chosen = min((run for run in mine if run["seed"] == 0), key=lambda run: run["loss"])
        rates = sorted(run["lr"] for run in mine if run["seed"] == 0)
        losses = [run["loss"] for run in mine if run["lr"] == chosen["lr"]]
        found.append(chosen | {"rates": rates, "losses": losses})
    return found


def ways() -> str:
    """A line for every method, at its best learning rate."""
    rows = best()
    dense = sum(rows[0]["losses"]) / len(rows[0]["losses"])
    lines = [
        f"| {row['label']} | {' / '.join(f'{loss:.3f}' for loss in row['losses'])} "
        f"| {sum(row['losses']) / len(row['losses']) - dense:+.2f} | {row['megabytes']:.2f} "
        f"| {row['lr'] * 1e3:g} | {', '.join(f'{rate * 1e3:g}' for rate in row['rates'])} |\n"
        for row in rows
    ]
    head = "| under AdamW | held-out loss, seeds | to dense | MB a worker | rate x 1000 | rates tried |\n"
    return head + "|---|---:|---:|---:|---:|---|\n" + "".join(lines)


def draw(path: Path) -> None:
    """Draw one coordinate's path, the shadows' movement, and the losses."""
    picture = canvas(15, 4.2)
    one, shadows, losses = picture.subplots(1, 3)
    for place, (label, values) in enumerate(coordinate().items()):
        one.plot(range(1, TARGET + 1), values, color=COLOURS[place], label=label, lw=1.4)
    one.set_title("A coordinate delivered every 100th step", fontsize=10, loc="left")
    one.set_xlabel("steps")
    one.set_ylabel("moved, in learning rates")
    one.legend(fontsize=8, frameon=False)
    found = [row for row in read("adam_mechanism")["gpt"] if not row["shadow"].startswith("dense")]
    bars(shadows, [row["shadow"] for row in found], [row["along_dense"] for row in found])
    shadows.axvline(1.0, color="#444444", lw=0.8, ls=":")
    shadows.set_title("GPT: movement along dense's, same gradients", fontsize=10, loc="left")
    rows = best()
    bars(losses, [row["label"] for row in rows], [sum(row["losses"]) / len(row["losses"]) for row in rows])
    losses.set_xlim(left=0.95 * min(row["loss"] for row in rows))
    losses.set_title("GPT: held-out loss at the best rate", fontsize=10, loc="left")
    for axes in (one, shadows, losses):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    picture.savefig(path, dpi=110)


def bars(axes: Any, labels: Sequence[str], values: Sequence[float]) -> None:
    axes.barh(labels, values, color=COLOURS[0], height=0.6)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)


def coordinate() -> Mapping[str, list[float]]:
    """The position of one coordinate after each step, for a gradient of 1 with noise of 1."""
    rng = torch.Generator().manual_seed(0)
    adams = {"dense Adam": Adam(), "sparse, beta2 = 0.95": Adam(), "sparse, beta2 = 0.999": Adam(0.999)}
    held, moved = torch.zeros(()), {name: [0.0] for name in adams}
    for step in range(1, 10 * EVERY + TARGET + 1):
        g = 1 + torch.randn((), generator=rng)
        held = held + g
        spike, held = (held, torch.zeros(())) if step % EVERY == 0 else (torch.zeros(()), held)
        for name, adam in adams.items():
            update = adam(g if name == "dense Adam" else spike).item()
            if step > 10 * EVERY:
                moved[name].append(moved[name][-1] + update)
    return {name: values[1:] for name, values in moved.items()}


if __name__ == "__main__":
    main()
