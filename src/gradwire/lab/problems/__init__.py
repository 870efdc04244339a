"""Problems of the laboratory: f(x) = (1/n) sum of f_i(x) over n workers, strongly convex, with all constants known."""

from gradwire.lab.problems.logistic import LibSVM as LibSVM
from gradwire.lab.problems.logistic import Logistic as Logistic
from gradwire.lab.problems.problem import Objective as Objective
from gradwire.lab.problems.problem import Problem as Problem
from gradwire.lab.problems.quadratic import Quadratic as Quadratic
from gradwire.lab.problems.registry import PROBLEMS as PROBLEMS
from gradwire.lab.problems.registry import make as make
from gradwire.lab.problems.ridge import Ridge as Ridge
from gradwire.lab.problems.samples import Samples as Samples
