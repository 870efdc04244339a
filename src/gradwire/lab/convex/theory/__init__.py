"""Theory: the parameters under which theorems hold, the rates they guarantee, and their Lyapunov functions.

>>> constants = Constants(L=1.0, L_i=[1.0, 1.0], mu=0.1)
>>> plan("diana", constants, omega=3.0).alpha
0.25
"""

from gradwire.lab.convex.theory.constants import Constants
from gradwire.lab.convex.theory.contractive import ef21, ef21_sgdm, ef_bv, spread
from gradwire.lab.convex.theory.differences import dasha, marina
from gradwire.lab.convex.theory.gradients import dcgd, dcgd_fixed, dcgd_star, diana, generalised_diana, rand_diana
from gradwire.lab.convex.theory.iterates import gdci, vr_gdci
from gradwire.lab.convex.theory.local import locodl
from gradwire.lab.convex.theory.methods import METHODS, plan
from gradwire.lab.convex.theory.plans import Consensus, Distance, Gap, TheoryPlan

__all__ = [
    "METHODS",
    "Consensus",
    "Constants",
    "Distance",
    "Gap",
    "TheoryPlan",
    "dasha",
    "dcgd",
    "dcgd_fixed",
    "dcgd_star",
    "diana",
    "ef21",
    "ef21_sgdm",
    "ef_bv",
    "gdci",
    "generalised_diana",
    "locodl",
    "marina",
    "plan",
    "rand_diana",
    "spread",
    "vr_gdci",
]
