"""The laboratory compared with a hand-written NumPy loop: DIANA with Rand-K on ridge regression, both sides in one run.

    python benchmarks/lab_speed.py

Both compute full gradients of the same problem, draw their own supports, and do the same arithmetic in float64; the loop
counts no bytes. Both sides run in turn several times; medians, minima and maxima are printed. The last line is `ratio R`:
rounds per second of the laboratory divided by those of the loop, at n = 10, d = 80.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from gradwire.compress import RandK
from gradwire.lab.convex import descent, methods, problems


def loop(problem: problems.Problem, step: float, alpha: float, k: int, rounds: int, seed: int = 0) -> np.ndarray:
    """Run DIANA written by hand, with supports by argpartition of uniform numbers; return the last x."""
    rows, offset = problem.objective.rows.numpy(), problem.objective.offset.numpy()
    penalty = problem.objective.penalty
    n, r, d = rows.shape
    flat, minus_y = rows.reshape(n * r, d), offset.reshape(-1)
    x, h, mean_h = problem.start.numpy().copy(), np.zeros((n, d)), np.zeros(d)
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        residual = (flat @ x + minus_y).reshape(n, 1, r)
        g = n * np.matmul(residual, rows)[:, 0] + penalty * x
        support = np.argpartition(rng.random((n, d)), k, axis=1)[:, :k]
        message = np.zeros((n, d))
        np.put_along_axis(message, support, np.take_along_axis(g - h, support, 1) * (d / k), 1)
        mean = message.mean(0)
        x -= step * (mean_h + mean)
        h += alpha * message
        mean_h += alpha * mean
    return x


def laboratory(problem: problems.Problem, method: methods.ConvexMethod, rounds: int, seed: int = 0) -> None:
    """Run the same in the laboratory, from the start of a run to its last mark."""
    for _ in descent.walk(problem, method, rounds, every=rounds, seed=seed):
        pass


def rates(problem: problems.Problem, rounds: int, turns: int) -> dict[str, list[float]]:
    """Rounds per second of both sides, turn by turn; the first turn is a warm-up and not counted."""
    method = methods.compose("diana", problem, RandK(0.1, "float64"))
    alpha, k = method.plan.alpha, problem.d // 10
    sides = {
        "loop": lambda seed: loop(problem, method.step, alpha, k, rounds, seed),
        "laboratory": lambda seed: laboratory(problem, method, rounds, seed),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        for name, side in sides.items():
            started = time.perf_counter()
            side(turn)  # another seed in every turn, as supports of known seeds may be cached
            if turn:
                found[name].append(rounds / (time.perf_counter() - started))
    return found


def main() -> None:
    torch.set_num_threads(1)
    results = {}
    for name, problem, rounds, turns in (
        ("n = 1000, d = 10,000", problems.Ridge(m=1000, d=10_000, n=1000), 4, 5),
        ("n = 10, d = 80", problems.Ridge(), 4000, 9),
    ):
        found = rates(problem, rounds, turns)
        middle = {side: statistics.median(values) for side, values in found.items()}
        for side, values in found.items():
            print(f"{name}: {side:<10} {middle[side]:>10,.2f} rounds/s [{min(values):,.2f}-{max(values):,.2f}]")
        ratio = middle["laboratory"] / middle["loop"]
        results[name] = {"ratio": ratio, **found}
        print(f"{name}: the laboratory makes {ratio:.3f} times as many rounds per second")
    Path(__file__).parent.joinpath("results", "lab_speed.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"ratio {results['n = 10, d = 80']['ratio']:.3f}")


if __name__ == "__main__":
    main()
