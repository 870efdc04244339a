"""Write golden bytes for formats that have none yet: `python tests/golden/make.py`. Existing entries never change."""

import json
from pathlib import Path

import torch

import gradwire as gw

FILE = Path(__file__).parent / "wire.json"
X = [0.5, -3.0, 0.0, 1.0e-3, 7.25, -0.125, 2.0, -1.0e4, 1.5, 0.0625, -6.0, 3.5, 1.0e-20, -0.75, 100.0, 0.3]
KINDS = [
    ("Identity", {"values": "float32"}),
    ("Identity", {"values": "float64"}),
    ("Identity", {"values": "bfloat16"}),
    ("Natural", {}),
    ("TopK", {"density": 0.25, "values": "float32"}),
    ("TopK", {"density": 0.25, "values": "float64"}),
    ("TopK", {"density": 0.25, "values": "bfloat16"}),
    ("TopK", {"density": 0.25, "values": "natural"}),
    ("TopK", {"density": 0.07, "values": "float32"}),
    ("TopK", {"density": 1.0, "values": "float32"}),
    ("RandK", {"density": 0.25, "values": "float32"}),
    ("RandK", {"density": 0.75, "values": "natural"}),
]

entries = json.loads(FILE.read_text()) if FILE.exists() else []
known = {entry["name"] for entry in entries}
for kind, parameters in KINDS:
    name = f"{kind}({', '.join(f'{k}={v}' for k, v in parameters.items())})"
    if name in known:
        continue
    compressor = vars(gw)[kind](**parameters)
    turn = gw.Turn(0, 1, 0, gw.Layout(["x"], [(len(X),)]))
    wire = compressor.encode(torch.tensor(X), turn)
    random = kind in ("Natural", "RandK") or parameters.get("values") == "natural"
    entries.append(
        {"name": name, "class": kind, "parameters": parameters, "d": len(X)}
        | ({} if random else {"x": X})
        | {"wire": bytes(wire.tolist()).hex(), "dense": compressor.decode(wire, len(X)).dense().tolist()}
    )
FILE.write_text(json.dumps(entries, indent=1) + "\n")
