"""Write the tables of the deft-tasks figures and of `deft_selection.py` into docs/deft.md, between its markers.

python benchmarks/deft_page.py
"""

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
SELECTION = Path(__file__).parent / "results" / "deft_selection.json"
MODELS = {"resnet18": "ResNet-18, 1 %", "lstm": "LSTM, 0.1 %", "neumf": "NeuMF, 10 %", "gpt2": "GPT-2, 0.1 %"}
WAYS = {"cost, cut=0": "as in the paper", "time, cut=2": "`cut=2`, by time", "time, cut=4": "`cut=4`, by time"}
WORKERS = (2, 4, 8, 16)
COLUMNS = (
    "task, density",
    "method",
    "metric, mean [least-most of three seeds]",
    "lost to dense",
    "realised",
    "kB a step",
    "AdamW: metric",
    "lost to dense",
)


def main() -> None:
    page = DOCS / "deft.md"
    text = page.read_text()
    for name, made in (("tasks", table()), ("selection", selection())):
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = marked.sub(lambda found, made=made: found[1] + made + found[2], text)
    page.write_text(text)


def selection() -> str:
    """n times the slowest worker's seconds divided by Top-k's; bold if within the bar of 1.15."""
    measured = json.loads(SELECTION.read_text())
    rows = [
        ["shapes, density", "cut and packed", *[f"n = {n}, evenly" for n in WORKERS]],
        ["---"] * 2 + ["---:"] * 4,
    ]
    for model, title in MODELS.items():
        for way, words in WAYS.items():
            scales = {scale["n"]: scale for scale in measured[model][way]["scales"]}
            rows.append([title, words, *[_ratio(scales[n]) for n in WORKERS]])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _ratio(scale: dict[str, Any]) -> str:
    ratio = scale["n"] * scale["slowest"]["median"] / scale["whole"]["median"]
    return f"{f'**{ratio:.2f}**' if ratio <= 1.15 else f'{ratio:.2f}'}, {scale['even']:.2f}"


def table() -> str:
    adamw = facts("deft-tasks-adamw")
    rows = [
        [*key[:1], fact["method"], spread(fact), lost(fact), f"{fact['density']:.2%}", f"{fact['kilobytes']:,.1f}"]
        + ([spread(adamw[key]), lost(adamw[key])] if key in adamw else ["", ""])
        for key, fact in facts("deft-tasks").items()
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in [COLUMNS, ["---"] * 2 + ["---:"] * 6, *rows])


def facts(name: str) -> dict[tuple[str, str], dict[str, Any]]:
    found = json.loads((DOCS / "figures" / f"{name}.json").read_text())["facts"]
    return {(f"{fact['task']}, {fact['target']:.0%}", fact["method"]): fact for fact in found}


def spread(fact: dict[str, Any]) -> str:
    return f"{fact['mean']:.3f} [{fact['least']:.3f}-{fact['most']:.3f}]"


def lost(fact: dict[str, Any]) -> str:
    return f"{fact['loss_to_dense'] + 0.0:+.1%}"


if __name__ == "__main__":
    main()
