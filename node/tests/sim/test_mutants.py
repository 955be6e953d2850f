# SPDX-License-Identifier: Apache-2.0
"""The simulator finds what it is there to find: the mutants that a few seeds catch are run every time."""

from __future__ import annotations

import pytest

from tests.sim.mutants import MUTANTS, seeds_to_catch

SLOW = {  # found by `python -m tests.sim.mutants`, after too many seeds for every day
    "own_vote_counts_before_it_is_durable",
}
LIMIT = 60


@pytest.mark.parametrize("name", sorted(MUTANTS.keys() - SLOW))
def test_mutant_is_caught(name: str) -> None:
    assert seeds_to_catch(MUTANTS[name][1], LIMIT) is not None
