# SPDX-License-Identifier: Apache-2.0
"""Counting majorities."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.consensus import quorum

IDS = "abcdefg"


@pytest.mark.parametrize(("voters", "needed"), [("a", 1), ("ab", 2), ("abc", 2), ("abcd", 3), ("abcde", 3)])
def test_majority(voters: str, needed: int) -> None:
    assert quorum.majority(voters) == needed


def test_who_does_not_vote_does_not_count() -> None:
    assert not quorum.reached("abc", {"a", "x", "y"})
    assert quorum.reached("abc", {"a", "c", "x"})


def test_no_voters_commit_nothing() -> None:
    assert quorum.commit_index({"a": 9}, frozenset(), 3, 1, lambda _i: 1) == 3


def test_entries_of_an_earlier_term_are_not_committed_by_counting() -> None:
    terms = {5: 2, 6: 4}
    assert quorum.commit_index({"a": 5, "b": 5, "c": 2}, "abc", 2, 4, terms.__getitem__) == 2
    assert quorum.commit_index({"a": 6, "b": 6, "c": 2}, "abc", 2, 4, terms.__getitem__) == 6


@settings(max_examples=300, deadline=None)
@given(st.sets(st.sampled_from(IDS), min_size=1), st.dictionaries(st.sampled_from(IDS), st.integers(0, 9)), st.data())
def test_commit_index_is_the_highest_that_a_majority_holds(
    voters: Collection[str], matched: dict[str, int], data: st.DataObject
) -> None:
    commit = data.draw(st.integers(0, 9))
    found = quorum.commit_index(matched, voters, commit, 1, lambda _i: 1)
    best = max(i for i in range(10) if 2 * sum(matched.get(v, 0) >= i for v in voters) > len(voters))
    assert found == max(commit, best)


@settings(max_examples=200, deadline=None)
@given(st.sets(st.sampled_from(IDS), min_size=1), st.data())
def test_two_majorities_meet(voters: set[str], data: st.DataObject) -> None:
    one = data.draw(st.sets(st.sampled_from(sorted(voters))))
    two = data.draw(st.sets(st.sampled_from(sorted(voters))))
    if quorum.reached(voters, one) and quorum.reached(voters, two):
        assert one & two
