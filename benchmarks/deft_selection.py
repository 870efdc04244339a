"""DEFT's selection by the number of workers, against Top-k of the whole vector by the same kernel, on the paper's shapes.

    python benchmarks/deft_selection.py [--quick] [--repeats N] [MODEL ...]

CPU seconds of one thread, on the shapes of the real models, with a random gradient whose tensors differ in scale. `ratio` is n
times the slowest worker's seconds divided by Top-k's: 1 is a linear speed-up. `plan` is the time that norms add to the pass of
error feedback, plus budgets and packing, divided by Top-k's seconds; `norms ms` is a pass for norms alone. Layers are cut and
packed as in the paper, and with `cut=2` and `cut=4`, `pack_by='time'`.

Bars: ratio at most 1.15 for n = 2, 4, 8, 16 on ResNet-18, LSTM and NeuMF; the plan below a quarter of Top-k at n = 1; budgets
and packing grow no faster than the number of layers. Missed bars are marked. Two columns explain the ratio: `even`, the ratio
if all bins took equally long, shows the overhead of the searches (each has a sample, and elements that pass it in surplus) for
any packing; `read`, n times a plain sum of the largest layer divided by Top-k's seconds, is a lower bound for searching that
layer.
--quick measures n up to 4, few times, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch

from gradwire import kernels
from gradwire.lab.models import shapes
from gradwire.lab.studies import selection

BARRED = ("lstm", "neumf", "resnet18")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["resnet18", "lstm", "neumf", "gpt2"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=15, help="timed rounds; a third of them for GPT-2")
    given = parser.parse_args()
    torch.set_num_threads(1)
    ns = (1, 2, 4) if given.quick else (1, 2, 4, 8, 16, 32, 64, 128, 256)
    found: dict[str, dict[str, selection.SelectionTimes]] = {}
    kernels.warm_up()
    for model in given.models:
        repeats = 3 if given.quick else given.repeats if model in BARRED else max(3, given.repeats // 3)
        found[model] = {}
        for pack_by, cut in (("cost", 0), ("time", 2), ("time", 4)):
            measured = selection.measure(shapes.MODELS[model], shapes.DENSITIES[model], ns, repeats, 0, pack_by, cut)
            found[model][f"{pack_by}, cut={cut}"] = measured
            table(model, measured)
    if not given.quick:
        file = Path(__file__).parent / "results" / "deft_selection.json"
        kept = json.loads(file.read_text()) if file.exists() else {}
        kept |= {model: {by: asdict(measured) for by, measured in both.items()} for model, both in found.items()}
        file.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def table(model: str, measured: selection.SelectionTimes) -> None:
    reference = measured.torch_topk.median
    print(
        f"\n{model} by {measured.pack_by}, cut {measured.cut}: d = {measured.d:,}, k = {measured.k:,}; torch.topk takes {reference * 1e3:,.0f} ms"
    )
    print(
        "  n      L  whole ms   slowest ms [quartiles]    ratio  even  read | norms ms  in EF ms  k ms  pack ms   plan  of torch's"
    )
    for scale in measured.scales:
        slowest = scale.slowest
        mark = " !" if model in BARRED and 2 <= scale.n <= 16 and scale.ratio > 1.15 else "  "
        print(
            f"{scale.n:>3} {scale.layers:>6} {scale.whole.median * 1e3:>9.2f} {slowest.median * 1e3:>9.3f} "
            f"[{slowest.low * 1e3:7.3f}, {slowest.high * 1e3:7.3f}] {scale.ratio:>6.2f}{mark} {scale.even:>4.2f} {scale.read:>5.2f} "
            f"| {scale.norms.median * 1e3:>8.2f} {scale.measured.median * 1e3:>9.2f} {scale.budgets.median * 1e3:>5.2f} {scale.packing.median * 1e3:>8.2f} "
            f"{scale.plan / scale.whole.median:>6.1%} {scale.plan / reference:>8.1%}"
        )
    first, last = measured.scales[0], measured.scales[-1]
    made = [scale.budgets.median + scale.packing.median for scale in (first, last)]
    grown = made[1] / made[0]
    print(
        f"plan at n = 1: {first.plan / first.whole.median:.1%} of Top-k (bar: 25 %), {first.plan / reference:.1%} of torch.topk"
    )
    print(f"n = 1 to {last.n}: budgets and packing {grown:.0f} times, layers {last.layers / first.layers:.0f} times")


if __name__ == "__main__":
    main()
