# SPDX-License-Identifier: Apache-2.0
"""Ways to break the code on purpose; the simulator must catch every one. `python -m tests.sim.mutants [NAME…]` prints the table.

Each mutant patches the running code through a `pytest.MonkeyPatch`. "Caught" means a Violation of a checked promise, a JournalError,
a needed file gone, or liveness lost; an error of the mutant itself (TypeError and the like) does not count.
"""

from tests.sim.mutants import elections, files, log, members, reads, storage
from tests.sim.mutants.registry import MUTANTS, seeds_to_catch

__all__ = ["MUTANTS", "elections", "files", "log", "members", "reads", "seeds_to_catch", "storage"]
