"""What a step of training costs, and where its time goes, per way of averaging, link and number of ranks.

sheet = bench.run(bench.Plan("mlp", ("dense", "ef(topk(density=0.01))"), rates=("100mbit",)))
print(sheet.to_csv())
"""

from gradwire.lab.bench.here import HERE, live_here, run_here
from gradwire.lab.bench.plan import METHODS, Cell, Plan
from gradwire.lab.bench.results import Measured, Model, Sheet
from gradwire.lab.bench.run import run
from gradwire.lab.bench.workloads import BUILT_IN, Workload, check_model, make

__all__ = [
    "BUILT_IN",
    "HERE",
    "METHODS",
    "Cell",
    "Measured",
    "Model",
    "Plan",
    "Sheet",
    "Workload",
    "check_model",
    "live_here",
    "make",
    "run",
    "run_here",
]
