"""Problems f(x) = (1/n) sum of f_i(x) over n workers, strongly convex, with known constants."""

from gradwire.lab.convex.problems.logistic import LibSVM as LibSVM
from gradwire.lab.convex.problems.logistic import Logistic as Logistic
from gradwire.lab.convex.problems.problem import Objective as Objective
from gradwire.lab.convex.problems.problem import Problem as Problem
from gradwire.lab.convex.problems.quadratic import Quadratic as Quadratic
from gradwire.lab.convex.problems.registry import PROBLEMS as PROBLEMS
from gradwire.lab.convex.problems.registry import make as make
from gradwire.lab.convex.problems.ridge import Ridge as Ridge
from gradwire.lab.convex.problems.samples import Samples as Samples
