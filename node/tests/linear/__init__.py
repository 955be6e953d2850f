# SPDX-License-Identifier: Apache-2.0
"""A linearizability checker for histories of operations on keys: `check(Register(), history)` is None when all is well.

operations.py says what is recorded, models.py what the keys are, checker.py and search.py how an order is looked for.
"""

from tests.linear.checker import Counterexample, check
from tests.linear.models import Model, Register, Revisions, Versioned
from tests.linear.operations import Operation, dump, load
from tests.linear.search import Undecided

__all__ = [
    "Counterexample",
    "Model",
    "Operation",
    "Register",
    "Revisions",
    "Undecided",
    "Versioned",
    "check",
    "dump",
    "load",
]
