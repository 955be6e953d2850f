# SPDX-License-Identifier: Apache-2.0
"""Log matching against a model that compares whole logs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.consensus.log_match import Accept, Reject, reconcile
from holdfast.consensus.types import Entry


def entries(first: int, terms: list[int]) -> list[Entry]:
    return [Entry(b"\x00", first + i, term) for i, term in enumerate(terms)]


def run(terms: list[int], commit: int, prev: int, prev_term: int, new: list[int], first: int = 1) -> Accept | Reject:
    """`terms` are those of the entries first, first+1, …"""
    return reconcile(
        first, first + len(terms) - 1, commit, lambda i: terms[i - first], prev, prev_term, entries(prev + 1, new)
    )


@pytest.mark.parametrize(
    ("terms", "commit", "prev", "prev_term", "new", "cut", "count", "verified"),
    [
        ([0, 1, 1], 1, 3, 1, [1, 2], None, 2, 5),  # plain append
        ([0, 1, 1], 1, 3, 1, [], None, 0, 3),  # empty: prev itself is verified
        ([0, 1, 1, 1], 1, 1, 0, [1], None, 0, 2),  # an old, short append cuts nothing (B1) and verifies nothing beyond
        ([0, 1, 1, 1], 1, 2, 1, [2], 3, 1, 3),  # a conflict cuts from there
        ([0, 1, 1, 1], 4, 1, 0, [1, 1, 1, 1], None, 1, 5),  # an overlap appends only what is new
    ],
)
def test_accepted(
    terms: list[int], commit: int, prev: int, prev_term: int, new: list[int], cut: int | None, count: int, verified: int
) -> None:
    found = run(terms, commit, prev, prev_term, new)
    assert isinstance(found, Accept)
    assert (found.cut, len(found.new), found.verified) == (cut, count, verified)


def test_gap_is_answered_with_the_end_of_the_log() -> None:
    assert run([0, 1], 1, 9, 1, [1]) == Reject(2)


def test_conflict_at_prev_skips_the_whole_term_but_not_below_commit() -> None:
    assert run([0, 1, 2, 2, 2], 1, 5, 3, []) == Reject(2)
    assert run([0, 1, 2, 2, 2], 3, 5, 3, []) == Reject(3)


def test_entries_below_the_sentinel_are_skipped() -> None:
    assert run([2, 2], 11, 5, 1, [2] * 8, first=10) == Accept(None, entries(12, [2, 2]), 13)
    assert run([2, 2], 11, 5, 1, [2, 2], first=10) == Accept(None, (), 7)
    assert run([2, 2], 11, 5, 1, [], first=10) == Accept(None, (), 5)


def test_cutting_a_committed_entry_is_an_assertion() -> None:
    with pytest.raises(AssertionError, match="committed entry 3"):
        run([0, 1, 1], 3, 2, 1, [2])


@st.composite
def two_logs(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    """Terms of a follower's and a leader's log that agree on a prefix and obey Raft: different suffixes, different terms."""
    common = sorted(draw(st.lists(st.integers(1, 3), max_size=6)))
    base = common[-1] if common else 1
    follower = common + sorted(draw(st.lists(st.integers(base + 1, base + 3).map(lambda t: t * 2), max_size=5)))
    leader = common + sorted(draw(st.lists(st.integers(base + 1, base + 5).map(lambda t: t * 2 + 1), max_size=6)))
    return [0, *follower], [0, *leader], 1 + len(common)


@settings(max_examples=400, deadline=None)
@given(two_logs(), st.data())
def test_any_append_leaves_a_log_that_agrees_with_the_leaders(
    logs: tuple[list[int], list[int], int], data: st.DataObject
) -> None:
    follower, leader, common = logs
    commit = data.draw(st.integers(1, common))
    first = data.draw(st.integers(1, commit))
    prev = data.draw(st.integers(1, len(leader)))
    count = data.draw(st.integers(0, len(leader) - prev))
    new = leader[prev : prev + count]
    found = run(follower[first - 1 :], commit, prev, leader[prev - 1], new, first=first)
    if isinstance(found, Reject):
        assert found.hint < prev  # progress
        assert found.hint >= min(commit, prev - 1)
        assert prev > len(follower) or follower[prev - 1] != leader[prev - 1]
        return
    after = follower[: found.cut - 1] if found.cut else list(follower)
    assert not found.cut or found.cut > commit
    after += [e.term for e in found.new]
    assert [e.index for e in found.new] == list(range(len(after) - len(found.new) + 1, len(after) + 1))
    assert found.verified <= prev + count
    assert after[: found.verified] == leader[: found.verified]
    if found.cut is None:
        assert after[: len(follower)] == follower  # nothing that does not conflict is lost
    elif found.cut:
        assert follower[found.cut - 1] != leader[found.cut - 1]


@settings(max_examples=200, deadline=None)
@given(two_logs())
def test_walking_back_by_hints_ends_in_a_match(logs: tuple[list[int], list[int], int]) -> None:
    follower, leader, common = logs
    prev, rounds = len(leader), 0
    while isinstance(found := run(follower, 1, prev, leader[prev - 1], []), Reject):
        prev, rounds = min(found.hint, prev - 1), rounds + 1
        assert rounds <= len(leader)
    assert 1 <= prev <= common
