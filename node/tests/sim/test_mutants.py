# SPDX-License-Identifier: Apache-2.0
"""The simulator finds what it is there to find: broken on purpose, the code is caught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from holdfast.consensus import leadership, log_match, quorum
from holdfast.consensus.types import JournalError
from tests.sim.scenario import run
from tests.sim.world import Node, Violation

SEEDS = range(1, 61)


def caught() -> bool:
    for seed in SEEDS:
        try:
            run(seed)
        except (Violation, JournalError) as error:
            print(f"seed {seed}: {error}")
            return True
    return False


def test_lost_syncs_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Node.start

    def start_without_sync(node: Node) -> None:
        start(node)
        node.disk.lose_syncs = True

    monkeypatch.setattr(Node, "start", start_without_sync)
    assert caught()


def test_self_count_before_sync_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = quorum.commit_index

    def eager(matched: Any, voters: Any, commit: int, term: int, term_at: Callable[[int], int]) -> int:
        best = max(matched.values())
        return plain({**matched, **dict.fromkeys(list(voters)[:1], best)}, voters, commit, term, term_at)

    monkeypatch.setattr(leadership.quorum, "commit_index", eager)
    assert caught()


def test_commit_of_an_older_term_or_minority_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def minority(matched: Any, voters: Any, commit: int, term: int, term_at: Callable[[int], int]) -> int:
        return max([commit, *(matched.get(v, 0) for v in voters)])

    monkeypatch.setattr(leadership.quorum, "commit_index", minority)
    assert caught()


def test_blind_truncation_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault B1: cut whatever follows prev, conflict or not."""
    plain = log_match.reconcile

    def blind(first: int, last: int, commit: int, term_at: Any, prev: int, prev_term: int, entries: Any) -> Any:
        found = plain(first, last, commit, term_at, prev, prev_term, entries)
        if isinstance(found, log_match.Accept) and found.cut is None and first <= prev < last and prev + 1 > commit:
            return log_match.Accept(prev + 1, entries, prev + len(entries))
        return found

    monkeypatch.setattr(log_match, "reconcile", blind)
    assert caught()


def test_two_configurations_at_once_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault B5."""
    from holdfast.consensus.raft import Raft

    monkeypatch.setattr(Raft, "_change_waits", lambda raft: raft.leadership is None)
    assert caught()


def test_reads_without_a_round_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.consensus.raft import Raft

    monkeypatch.setattr(Raft, "read_index", lambda raft, done: done(raft.leadership is not None))
    assert caught()
