"""Loss over wall-clock time under AdamW: which method first reaches the held-out loss that dense DDP has after 200 steps?

    python benchmarks/race.py [--plan] [--only WAY ...] [--sweep-all] [--losses] [--minutes 30] [--table]

All methods train a GPT of 10.7 million parameters on the source of Python's standard library, on two ranks with one thread each, with the
same batches and seed: AdamW with torch's settings, a constant learning rate after 20 steps of warm-up, gradients clipped to norm 1.
Losses do not depend on the link, so training runs on loopback. The time on a link is the number of steps times the seconds of a step
there: the median of a few measured steps, or of rounds' averages. Each method has three stages; finished runs are kept in
results/race.json and not repeated:

    sweep   SWEEP_STEPS steps at each of RATES, to find the best by held-out loss; one method of each family (all with --sweep-all)
    train   at the best rate, until the loss of dense's 200 steps is reached, or for MOST_STEPS
    time    a few steps on each link, with the bytes by the kernel's count

--plan prints the remaining runs and an estimate; --minutes stops before a run that would end later. --table measures nothing: it writes
the rows of results/race.json and the section of docs/speed.md again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import statistics
import time
from pathlib import Path
from typing import Any

from rows import RESULTS, Row, row, show, write

from gradwire.lab.comparison.job import TrainingJob
from gradwire.lab.comparison.on_ranks import execute
from gradwire.lab.comparison.record import Run
from gradwire.lab.ways import is_torch, local_steps, powersgd_rank
from gradwire.lab.ways.torchs import DENSE_STEPS as DENSE_FIRST
from gradwire.net import parse_rate

LINKS = ("100mbit", "10mbit")
RATES = (2.5e-4, 5e-4, 1e-3)
MODEL: dict[str, Any] = {"width": 384, "depth": 6, "heads": 6, "context": 64, "batch": 8}
PARAMETERS = 10_750_000
DENSE_STEPS, SWEEP_STEPS, MOST_STEPS = 200, 90, 300
EVALUATE_EVERY = 16.0

FAMILIES = {
    "dense": ("int8allreduce(workers=2)",),
    "powersgd4": ("powersgd1", "powersgd2", "powersgd8"),
    "ef(topk(density=0.1, values='bits4'))": (),
    "local(every=10)": ("local(every=4)", "local(every=30)", "local(every=10, delay=2)"),
}
"""Methods whose learning rate is swept, with their relatives, which use the same rate unless all are swept."""

WAYS = (
    "dense",
    "local(every=10)",
    "powersgd4",
    "powersgd2",
    "powersgd1",
    "local(every=4)",
    "ef(topk(density=0.1, values='bits4'))",
    "int8allreduce(workers=2)",
    "local(every=30)",
    "powersgd8",
    "local(every=10, delay=2)",
)
"""All methods in the order of measuring, the most important first, so that a few minutes give their rows."""

LINKED = (*WAYS, "fp16")
"""The methods timed on the links. torch's fp16 hook only rounds gradients, so its losses are taken to be dense's."""

BARS = {"100mbit": (6.0, 1.2), "10mbit": (40.0, 2.0)}
"""How many times sooner gradwire.local must be than dense, and than the best of torch's hooks."""

WIRE = 0.05
"""The largest fraction of a round that the wire may take at 10 Mbit/s with rounds of ten steps."""

STEP, EVALUATION, START = 0.5, 4.0, 15.0
"""Seconds assumed in estimates: a step on loopback, an evaluation, starting processes and warming up."""

PAGE = Path(__file__).parents[1] / "docs" / "speed.md"
Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", action="append", choices=LINKED, help="dense must have been trained before")
    parser.add_argument("--sweep-all", action="store_true", help="sweep the learning rate of every method")
    parser.add_argument(
        "--losses", action="store_true", help="only sweep and train, which a busy machine does not affect"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args()
    if chosen.table:
        judge_and_draw()
        return
    started = time.perf_counter()
    ways = chosen.only or LINKED

    def open_tasks() -> list[Record]:
        return [task for task in left(ways, chosen.sweep_all) if not chosen.losses or task["stage"] != "time"]

    print(f"about {sum(map(seconds, open_tasks())) / 60:.0f} minutes are left", flush=True)
    if chosen.plan:
        for task in open_tasks():
            print(f"{seconds(task):5.0f} s  {task}")
        return
    while tasks := open_tasks():
        if time.perf_counter() - started + seconds(tasks[0]) > 60 * chosen.minutes:
            break
        done = measure(tasks[0])
        write("race.json", {"rows": [], "runs": [*read(), done]})
        print(f"{done['stage']} {done['way']}: {summary(done)}", flush=True)
    judge_and_draw()


# ---- what there is to do


def read() -> list[Record]:
    file = RESULTS / "race.json"
    return json.loads(file.read_text())["runs"] if file.exists() else []


def left(ways: tuple[str, ...] | list[str], sweep_all: bool) -> list[Record]:
    """The remaining tasks, in order; later ones may change when earlier ones are done."""
    tasks: list[Record] = []
    for way in ways:
        if way in swept(sweep_all):
            tasks += [
                {"stage": "sweep", "way": way, "rate": rate} for rate in RATES if not find("sweep", way, rate=rate)
            ]
        if way not in ("dense", "fp16") and not find("train", way):
            tasks.append({"stage": "train", "way": way})
        tasks += [{"stage": "time", "way": way, "link": link} for link in LINKS if not find("time", way, link=link)]
    return tasks


def swept(sweep_all: bool) -> tuple[str, ...]:
    """The methods whose learning rate is swept."""
    return WAYS if sweep_all else tuple(FAMILIES)


def find(stage: str, way: str, **fields: Any) -> list[Record]:
    wanted = {"stage": stage, "way": way, **fields}
    return [each for each in read() if all(each[name] == value for name, value in wanted.items())]


def seconds(task: Record) -> float:
    """Estimate the seconds of a task."""
    steps = {"sweep": DENSE_STEPS if task["way"] == "dense" else SWEEP_STEPS, "train": 250}.get(task["stage"])
    if steps is not None:
        return START + steps * STEP * (1 + EVALUATION / EVALUATE_EVERY)
    size = {"dense": 1.0, "fp16": 0.5, "int8allreduce(workers=2)": 0.25}.get(task["way"], 0.03)  # relative to dense
    wire = size * 4 * PARAMETERS * 8 / parse_rate(task["link"])
    return START + timed_steps(task["way"], task["link"]) * (STEP + wire)


def best_rate(way: str) -> float:
    """The learning rate of a method's training: its own best, or that of its family."""
    head = "dense" if way == "fp16" else next((head for head, others in FAMILIES.items() if way in others), way)
    runs = find("sweep", way) or find("sweep", head)
    return min(runs, key=lambda each: each["points"][-1]["loss"])["rate"]


def target() -> float:
    """The held-out loss that dense has after DENSE_STEPS steps at its best rate."""
    return min(each["points"][-1]["loss"] for each in find("sweep", "dense"))


# ---- a run


def measure(task: Record) -> Record:
    """Run a task and return its record."""
    way = task["way"]
    if task["stage"] == "sweep":
        run = train(way, task["rate"], DENSE_STEPS if way == "dense" else SWEEP_STEPS, None)
        return task | losses(run)
    if task["stage"] == "train":
        return task | {"rate": best_rate(way)} | losses(train(way, best_rate(way), MOST_STEPS, target()))
    steps = timed_steps(way, task["link"])
    job = TrainingJob(way, steps=steps, seconds=1e6, evaluate_every=1e6, rehearsed=True, **MODEL)
    run = execute(way, job, 2, task["link"])
    return task | {
        "steps": steps,
        "step_seconds": run.step_seconds,
        "split": dataclasses.asdict(run.split),
        "ledger_bytes": run.ledger_bytes / steps,
        "link_payload": run.link_payload / steps,
    }


def timed_steps(way: str, link: str) -> int:
    """The number of steps to time: few if a step takes half a minute; at least two rounds of local steps."""
    if (local := local_steps(way)) is not None:
        return max(20, 2 * local.every)
    return {"dense": 3, "fp16": 4}.get(way, 12) if link == "10mbit" else 12


def train(way: str, rate: float, steps: int, until: float | None) -> Run:
    """Train on loopback."""
    job = TrainingJob(
        way,
        steps=steps,
        seconds=1e6,
        learning_rate=rate,
        floor=1.0,
        evaluate_every=EVALUATE_EVERY,
        target=until,
        **MODEL,
    )
    return execute(way, job, 2, None)


def losses(run: Run) -> Record:
    return {
        "points": [{"step": at.step, "loss": at.loss} for at in run.points],
        "step_seconds": run.step_seconds,
        "split": dataclasses.asdict(run.split),
    }


def summary(done: Record) -> str:
    if done["stage"] == "time":
        return f"{1e3 * done['step_seconds']:.0f} ms a step at {done['link']}"
    last = done["points"][-1]
    return f"{last['loss']:.4f} after {last['step']} steps at a rate of {done['rate']:g}"


# ---- what it comes to


def judge_and_draw() -> None:
    rows = judge()
    if rows:
        show(rows)
    write("race.json", {"rows": rows, "runs": read()})
    marked = re.compile(r"(<!-- race -->\n).*?(<!-- /race -->)", re.DOTALL)
    text = section(rows) if rows else ""
    PAGE.write_text(marked.sub(lambda found: found[1] + text + found[2], PAGE.read_text()))


def steps_to_target(way: str) -> float:
    """Steps until dense's loss, interpolated linearly between evaluations; inf if it was not reached."""
    if way in ("dense", "fp16"):
        return DENSE_STEPS
    goal, runs = target(), find("train", way)
    before: dict[str, float] | None = None
    for at in runs[0]["points"] if runs else ():
        if at["loss"] <= goal:
            return at["step"] if before is None else interpolated(before, at, goal)
        before = at
    return float("inf")


def interpolated(before: dict[str, float], after: dict[str, float], loss: float) -> float:
    fraction = (before["loss"] - loss) / (before["loss"] - after["loss"])
    return before["step"] + fraction * (after["step"] - before["step"])


def timed(way: str, link: str) -> Record | None:
    return next(iter(find("time", way, link=link)), None)


def clock(way: str, link: str) -> float:
    """Seconds to dense's loss on a link, including PowerSGD's first, dense steps; inf if unknown or not reached."""
    measured, dense = timed(way, link), timed("dense", link)
    if measured is None or dense is None or not find("sweep", "dense"):
        return float("inf")
    first = DENSE_FIRST if powersgd_rank(way) else 0
    return (steps_to_target(way) - first) * measured["step_seconds"] + first * dense["step_seconds"]


def at_least(way: str, link: str) -> float:
    """A lower bound on `clock`: for a method that did not reach the loss, the seconds of the steps it was given."""
    runs, measured = find("train", way), timed(way, link)
    if clock(way, link) < float("inf") or not runs or measured is None:
        return clock(way, link)
    return runs[0]["points"][-1]["step"] * measured["step_seconds"]


def judge() -> list[Row]:
    """Make the rows with their bars, as far as there are results."""
    rows: list[Row] = []
    for link in LINKS:
        clocks = {way: clock(way, link) for way in LINKED}
        locals_ = {way: each for way, each in clocks.items() if local_steps(way) is not None and each < float("inf")}
        torchs = {way: each for way, each in clocks.items() if is_torch(way)}
        if not locals_ or clocks["dense"] == float("inf"):
            continue
        best, dense, hooks = BARS[link], clocks["dense"], min(at_least(way, link) for way in torchs)
        soonest = min(locals_, key=lambda way: locals_[way])
        rows += [row(f"{link}: seconds to dense's loss, {way}", each) for way, each in clocks.items() if each < 1e9]
        rows.append(row(f"{link}: {soonest}, times faster than dense", dense / locals_[soonest], least=best[0]))
        rows.append(
            row(
                f"{link}: {soonest}, times faster than the best of torch's hooks, at least",
                hooks / locals_[soonest],
                least=best[1],
            )
        )
    for way in ("local(every=10)", "local(every=10, delay=2)"):
        if (ten := timed(way, "10mbit")) is not None:
            rows.append(row(f"10mbit: wire's share of a round of {way}", wire_share(ten), most=WIRE))
    ratios = [abs(each["link_payload"] / each["ledger_bytes"] - 1) for each in read() if each["stage"] == "time"]
    if ratios:
        name = "bytes by the kernel, less headers, against the ledger: the median difference"
        rows.append(row(name, statistics.median(ratios)))
        rows.append(row("the same, the largest", max(ratios), most=0.05))
    return rows


def wire_share(timed: Record) -> float:
    """The wire's fraction of a step; with a delayed exchange, all time of a step beyond computing."""
    step, split = timed["step_seconds"], timed["split"]
    return (max(0.0, step - split["compute"]) if "delay=" in timed["way"] else split["wire"]) / step


def section(rows: list[Row]) -> str:
    """The section of docs/speed.md."""
    tokens = MODEL["batch"] * MODEL["context"]
    lines = [f"| {each['name']} | {each['value']:.3g} | {each['bar'] or ''} | {said(each['holds'])} |" for each in rows]
    return f"""## Loss over wall-clock time

`python benchmarks/race.py` measures the time until the held-out loss is that of dense DDP after {DENSE_STEPS} steps,
{target():.3f} nats per byte. The model is a GPT of {PARAMETERS / 1e6:.1f} M parameters on text, trained by two ranks with {tokens} bytes per rank and
step, AdamW with torch's defaults, gradients clipped at norm 1, one seed. The learning rate is constant after a warm-up, so
no method depends on where a schedule ends. It is swept over {", ".join(f"{rate:g}" for rate in RATES)} for
{", ".join(f"`{way}`" for way in swept(sweep_all=False))};
every other method takes the best rate of its relative among these.

Losses do not depend on the link, so each method trains once, on loopback. Its time is the number of steps times the step
measured on the link; for local steps, the average over a round. "wire" is the part of a step that is neither computing
nor selection; for local steps it is the time a rank waits in the exchange, slower ranks included, and with a delay all time
beyond computing. fp16 is assumed to have dense's losses. PowerSGD's first two steps are dense, which is torch's default.

{table()}
| what | value | bar | holds |
|---|---:|---:|---|
{chr(10).join(lines)}
"""


def said(holds: bool | None) -> str:
    return "" if holds is None else "yes" if holds else "**no**"


def table() -> str:
    """A line for each method: learning rate, steps to dense's loss, and for each link step, wire, bytes and seconds."""
    head = "".join(f" {link}: ms a step | wire | MB a step | seconds |" for link in LINKS)
    lines = [
        f"| method | learning rate | steps to dense's loss |{head}\n|---|---:|---:|{'---:|---:|---:|---:|' * len(LINKS)}\n"
    ]
    for way in LINKED:
        known = find("train", way) or (
            [{"rate": best_rate(way)}] if way in ("dense", "fp16") and find("sweep", "dense") else []
        )
        if not known:
            continue
        steps = steps_to_target(way)
        cells = "".join(f" {cell} |" for link in LINKS for cell in link_cells(way, link))
        lines.append(
            f"| `{way}` | {known[0]['rate']:g} | {f'{steps:.0f}' if steps < 1e9 else 'not reached'} |{cells}\n"
        )
    return "".join(lines)


def link_cells(way: str, link: str) -> tuple[str, str, str, str]:
    measured = timed(way, link)
    if measured is None:
        return "", "", "", ""
    total = clock(way, link)
    return (
        f"{1e3 * measured['step_seconds']:.0f}",
        f"{100 * wire_share(measured):.0f} %",
        f"{measured['ledger_bytes'] / 1e6:.3g}",
        f"{total:.0f}" if total < 1e9 else "",
    )


if __name__ == "__main__":
    main()
