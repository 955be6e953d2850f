# SPDX-License-Identifier: Apache-2.0
"""Counting majorities (Raft §5.3, §5.4.2). Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping


def majority(voters: Collection[str]) -> int:
    """How many of `voters` are a majority."""
    return len(voters) // 2 + 1


def reached(voters: Collection[str], who: Collection[str]) -> bool:
    """True when `who` holds a majority of `voters`; ids that do not vote do not count."""
    return sum(1 for voter in voters if voter in who) >= majority(voters)


def nth(voters: Collection[str], numbers: Mapping[str, int]) -> int:
    """The highest number that a majority of `voters` has reached; who is not in `numbers` has 0. No voters: 0."""
    ranked = sorted((numbers.get(voter, 0) for voter in voters), reverse=True)
    return ranked[majority(voters) - 1] if ranked else 0


def commit_index(
    matched: Mapping[str, int], voters: Collection[str], commit: int, term: int, term_at: Callable[[int], int]
) -> int:
    """The highest index that a majority of voters holds durably and that is of the leader's own `term`, else `commit`.

    `matched` has each voter's durable index, the leader's own included (never beyond its own fdatasync, B12).
    Entries of earlier terms are committed only together with one of this term (Raft §5.4.2).
    """
    candidate = nth(voters, matched)
    if candidate > commit and term_at(candidate) == term:
        return candidate
    return commit
