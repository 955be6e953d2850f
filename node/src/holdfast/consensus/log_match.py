# SPDX-License-Identifier: Apache-2.0
"""The follower's half of log matching (Raft §5.3): repairs faults B1, B2 and B3 of stock pysyncobj. Pure.

Invariant: a log is cut only from the first entry that really conflicts (same index, other term), never below the commit
index, and an acknowledgement names exactly what was compared with the leader's log, nothing beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from holdfast.consensus.types import Entry


@dataclass(frozen=True, slots=True)
class Accept:
    """Cut the log from `cut` on (None: nothing), append `new`; the log then matches the leader's up to `verified`."""

    cut: int | None
    new: Sequence[Entry]
    verified: int


@dataclass(frozen=True, slots=True)
class Reject:
    """No match at prev; the leader should try again with prev at or below `hint`."""

    hint: int


def reconcile(
    first: int,
    last: int,
    commit: int,
    term_at: Callable[[int], int],
    prev_index: int,
    prev_term: int,
    entries: Sequence[Entry],
) -> Accept | Reject:
    """Compare an append with a log that holds [first, last]; `first` is the sentinel (committed, in the snapshot).

    `term_at(i)` gives the term for first <= i <= last. Entries at or below `first` are committed and therefore equal.
    Raises AssertionError if the leader asks to cut a committed entry: the caller must stop the server.
    """
    if prev_index > last:
        return Reject(last)
    if prev_index < first:
        skip = first - prev_index
        if len(entries) <= skip:
            return Accept(None, (), min(first, prev_index + len(entries)))
        entries = entries[skip:]
        prev_index = first
    elif term_at(prev_index) != prev_term:
        # Skip the whole conflicting term in one go (Raft §5.3, end), but never below what is committed here.
        conflict, hint = term_at(prev_index), prev_index - 1
        while hint > first and hint > commit and term_at(hint) == conflict:
            hint -= 1
        return Reject(max(hint, min(commit, prev_index - 1)))
    verified = prev_index + len(entries)
    for position, entry in enumerate(entries):
        if entry.index > last:
            return Accept(None, entries[position:], verified)
        if term_at(entry.index) != entry.term:
            if entry.index <= commit:
                raise AssertionError(f"the leader's log conflicts with committed entry {entry.index}")
            return Accept(entry.index, entries[position:], verified)
    return Accept(None, (), verified)
