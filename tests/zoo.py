"""Every composition that must obey every law. A new algorithm joins by one line."""

from __future__ import annotations

import gradwire as gw

SPECS = [
    "mean",
    "identity",
    "identity(values='bfloat16')",
    "natural",
    "topk(density=0.1)",
    "topk(density=0.6)",
    "topk(density=0.02, values='bfloat16')",
    "topk(density=0.1, values='natural')",
    "randk(density=0.1)",
    "randk(density=0.7, values='natural')",
    "scaled(randk(density=0.2))",
    "sharedrandk(density=0.1)",
    "sharedrandk(density=0.9, unbiased=false)",
    "deft(density=0.05)",
    "deft(density=1.0)",
    "guard(deft(density=0.05))",
    "ef(mean)",
    "ef(natural)",
    "ef(topk(density=0.05))",
    "ef(topk(density=0.05, values='bfloat16'))",
    "ef(topk(density=0.05, values='natural'))",
    "ef(scaled(randk(density=0.2)))",
    "ef(sharedrandk(density=0.2, unbiased=false))",
    "ef(deft(density=0.05))",
    "guard(ef(deft(density=0.05)))",
    "shifted(randk(density=0.2), fixed())",
    "shifted(ef(topk(density=0.1)), fixed())",
    "diana(randk(density=0.2))",
    "diana(natural)",
    "diana(sharedrandk(density=0.3))",
    "shifted(randk(density=0.2), follow(alpha=0.1))",
    "ef21(topk(density=0.1))",
    "ef21(deft(density=0.1))",
    "ef21(scaled(randk(density=0.3)))",
    "randdiana(randk(density=0.2))",
    "randdiana(natural, p=0.5)",
    "efbv(topk(density=0.1), lam=0.9, nu=0.6)",
    "efbv(randk(density=0.2), lam=0.2, nu=0.5)",
    "ef21sgdm(topk(density=0.1), eta=0.2)",
    "marina(randk(density=0.2), p=0.4)",
    "dasha(randk(density=0.2))",
    "gdci(natural, gamma=0.5)",
    "vrgdci(natural, gamma=0.5)",
]

RANDOM = ("bernoulli", "dithering", "natural", "perm", "rand", "ternary")
"""Words in the specs of parts that draw random numbers."""

COMPRESSORS = [
    gw.Identity(),
    gw.Identity("float64"),
    gw.Identity("bfloat16"),
    gw.Natural(),
    gw.TopK(0.1),
    gw.TopK(0.004),
    gw.TopK(0.6),
    gw.TopK(1.0),
    gw.TopK(0.1, "bfloat16"),
    gw.TopK(0.1, "natural"),
    gw.RandK(0.1),
    gw.RandK(0.75),
    gw.RandK(1.0),
    gw.RandK(0.3, "natural"),
    gw.Scaled(gw.RandK(0.1)),
    gw.Scaled(gw.Natural()),
]

LAYOUT = gw.Layout(
    ["wide", "bias", "empty", "square", "one", "long"],
    [(40, 7), (7,), (0,), (13, 13), (), (201,)],
)
"""Sizes that provoke: a tensor larger than d / n, an empty one, a scalar."""
