"""Write golden bytes for formats that have none yet: `python tests/golden/make.py`. Existing entries never change.

Those of 0.1.0 are named by class and parameters, all later ones by their spec.
"""

import json
from pathlib import Path

import torch

import gradwire as gw
from gradwire.spec import build

FILE = Path(__file__).parent / "wire.json"
X = [0.5, -3.0, 0.0, 1.0e-3, 7.25, -0.125, 2.0, -1.0e4, 1.5, 0.0625, -6.0, 3.5, 1.0e-20, -0.75, 100.0, 0.3]
SPECS = [
    "dithering(s=1)",
    "dithering(s=4, p=1.5)",
    "dithering(s=127, p='inf')",
    "naturaldithering(s=3)",
    "naturaldithering(s=20, p='inf')",
    "ternary",
    "ternary(p=2.0)",
    "scaledsign",
    "bernoulli(p=1e-9)",
    "bernoulli(p=1.0)",
    "hardthreshold(level=1.0)",
    "hardthreshold(level=1e6)",
    "randk(density=0.25, values='bfloat16', unbiased=false)",
    "chain(topk(density=0.25), dithering(s=4))",
    "chain(randk(density=0.25), natural)",
    "induced(topk(density=0.25), randk(density=0.25))",
    "blockwise(ternary, size=6)",
    "blockwise(topk(density=0.2), size=5)",
    "topk(density=0.5, values='bits4')",
    "identity(values='bits4')",
    "identity(values='bits2')",
    "chunkedtopk(density=0.5, values='bits2', chunk=6)",
    "chunkedtopk(density=0.125, chunk=8)",
]
SEEDED = [
    "natural",
    "topk(density=0.5, values='natural')",
    "dithering(s=7)",
    "dithering(s=300, p='inf')",
    "naturaldithering(s=3)",
    "ternary",
    "ternary(p=2.0)",
]
"""Random operators whose draw of seed 0 is a promise too: rounding takes its coins from the turn's key alone."""

entries = json.loads(FILE.read_text())
known = {entry["name"] for entry in entries}
for spec in SPECS:
    if spec in known:
        continue
    compressor, x, layout = build(spec), torch.tensor(X), gw.Layout(["x"], [(len(X),)])
    wires = [compressor.encode(x, gw.Turn(0, 1, 0, layout, seed)) for seed in range(10)]
    # Of a random operator the bytes are one draw of many: it must go on reading them, but need not write them again.
    random = any(wire.shape != wires[0].shape or not torch.equal(wire, wires[0]) for wire in wires)
    entries.append(
        {"name": spec, "spec": spec, "d": len(X)}
        | ({} if random else {"x": X})
        | {"wire": bytes(wires[0].tolist()).hex(), "dense": compressor.decode(wires[0], len(X)).dense().tolist()}
    )
for spec in SEEDED:
    if f"{spec}, seed 0" in known:
        continue
    compressor, x, layout = build(spec), torch.tensor(X), gw.Layout(["x"], [(len(X),)])
    wire = compressor.encode(x, gw.Turn(0, 1, 0, layout))
    entries.append(
        {"name": f"{spec}, seed 0", "spec": spec, "d": len(X), "x": X}
        | {"wire": bytes(wire.tolist()).hex(), "dense": compressor.decode(wire, len(X)).dense().tolist()}
    )
FILE.write_text(json.dumps(entries, indent=1) + "\n")
