"""Measure the time of a training step and its parts, by method of averaging, link and number of ranks.

sheet = bench.run(bench.BenchPlan("mlp", ("dense", "ef(topk(density=0.01))"), rates=("100mbit",)))
print(sheet.to_csv())
"""

from gradwire.lab.bench.plan import METHODS, BenchPlan, Cell
from gradwire.lab.bench.race import Progress
from gradwire.lab.bench.results import Measured, Model, Sheet
from gradwire.lab.bench.run import HERE, live_here, run, run_here
from gradwire.lab.bench.workloads import BUILT_IN, Workload, check_model, make

__all__ = [
    "BUILT_IN",
    "HERE",
    "METHODS",
    "BenchPlan",
    "Cell",
    "Measured",
    "Model",
    "Progress",
    "Sheet",
    "Workload",
    "check_model",
    "live_here",
    "make",
    "run",
    "run_here",
]
