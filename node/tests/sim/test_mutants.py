# SPDX-License-Identifier: Apache-2.0
"""The simulator finds what it is there to find: the mutants that a few seeds catch are run every time."""

from __future__ import annotations

import pytest

from tests.sim.mutants import MUTANTS, seeds_to_catch

QUICK = [
    "fdatasync_does_nothing",
    "acknowledge_before_sync",
    "leader_counts_itself_before_sync",
    "term_and_vote_are_not_recorded",
    "old_snapshot_goes_before_the_new_is_recorded",
    "cut_without_a_conflict",
    "commit_beyond_what_was_verified",
    "a_minority_commits",
    "learners_count_for_commit",
    "votes_of_strangers_and_repeats_count",
    "votes_for_logs_that_lag",
    "two_votes_in_one_term",
    "reads_without_a_round",
    "reads_before_the_no_op_is_committed",
    "two_configurations_at_once",
    "configurations_in_force_when_applied",
    "chunk_offsets_are_ignored",
    "files_are_not_synced",
    "restores_without_a_majority_of_files",
]


@pytest.mark.parametrize("name", QUICK)
def test_mutant_is_caught(name: str) -> None:
    assert seeds_to_catch(MUTANTS[name][1], 60) is not None
