# SPDX-License-Identifier: Apache-2.0
"""Raft's view of the log: how far it is durable, whatever is cut while a flush is under way."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.consensus import recovery, wal
from holdfast.consensus.journal import RaftLog
from holdfast.consensus.types import Configuration, Snapshot
from tests.sim.disk import SimDisk


def new_log() -> tuple[SimDisk, RaftLog]:
    disk = SimDisk(random.Random(1))
    wal.create(disk, "cl", "n1", 4096)
    return disk, RaftLog(*recovery.recover(disk, 4096))


def snapshot(index: int, term: int = 1) -> Snapshot:
    return Snapshot(index, term, "s", 1, "", Configuration("cl", ()), 0)


def add(log: RaftLog, term: int, count: int = 1) -> None:
    for _ in range(count):
        log.add(b"\x00x", log.last + 1, term)


def test_durable_only_when_told() -> None:
    _, log = new_log()
    add(log, 1, 3)
    assert log.durable_index == 1
    batch = log.take()
    add(log, 1)
    log.durable(batch.lsn)
    assert (log.last, log.durable_index) == (5, 4)


def test_entries_that_replace_cut_ones_are_not_durable_with_the_old_flush() -> None:
    _, log = new_log()
    add(log, 1, 4)
    old = log.take()
    log.deleteEntriesFrom(3 - log.first)
    add(log, 2, 4)
    log.durable(old.lsn)
    assert log.durable_index == 2
    log.durable(log.take().lsn)
    assert log.durable_index == log.last == 6


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["add", "cut", "take", "done", "reset", "snap"]), max_size=40), st.integers(0, 2**32))
def test_durable_index_never_names_an_entry_that_is_not_on_disk(steps: list[str], seed: int) -> None:
    """The truth is what recovery reads from the disk; `durable_index` must never go beyond the common prefix with it."""
    rng = random.Random(seed)
    disk, log = new_log()
    flying: list[wal.Batch] = []
    term = covered = 1
    for step in steps:
        if step == "add":
            add(log, term, rng.randint(1, 3))
        elif step == "cut" and log.last > max(covered, log.first):
            term += 1
            log.deleteEntriesFrom(rng.randint(max(covered, log.first) + 1, log.last) - log.first)
        elif step == "take" and not flying:
            flying.append(log.take())
        elif step == "done" and flying:
            batch = flying.pop()
            log.wal.write(batch)
            log.durable(batch.lsn)
        elif step == "reset":
            term += 1
            log.reset(snapshot(log.last + rng.randint(1, 3), term))
            flying_before = list(flying)
            for batch in flying_before:  # a snapshot covers it: what matters is what comes after
                flying.remove(batch)
                log.wal.write(batch)
                log.durable(batch.lsn)
            last = log.take()
            log.wal.write(last)
            log.durable(last.lsn)
        elif step == "snap" and log.last > log.first:
            covered = rng.randint(max(covered, log.first), log.last)
            log.snapshot_saved(snapshot(covered), rng.randint(0, 6))
        on_disk = {e.index: e.term for e in recovery.recover(_copy(disk), 4096)[1].entries}
        for index in range(log.first + 1, log.durable_index + 1):
            assert on_disk.get(index) == log.term_at(index)
        assert log.durable_index <= log.last  # it may lie below `first`: others made durable what the snapshot covers
        assert 0 <= log.bytes - sum(len(e.command) for e in log[1:]) <= len(log[0].command)
        assert [e.index for e in log[0:]] == list(range(log.first, log.last + 1))


def _copy(disk: SimDisk) -> SimDisk:
    other = SimDisk(random.Random(0))
    for name in disk.list():
        data = disk.read(name)
        other.create(name, 0)
        other.write(name, 0, data)
    return other


def test_a_snapshot_keeps_a_tail_for_servers_that_lag() -> None:
    _, log = new_log()
    for _ in range(20):
        log.add(b"\x00" + bytes(9), log.last + 1, 1)
    log.snapshot_saved(snapshot(15), 35)
    assert (log.first, log.last) == (12, 21)
    assert log.bytes_since_snapshot == 60


def test_slices_hold_at_least_one_entry_and_stop_at_the_limit() -> None:
    _, log = new_log()
    for _ in range(5):
        log.add(b"\x00" + bytes(9), log.last + 1, 1)
    assert [e.index for e in log.slice(3, 1)] == [3]
    assert [e.index for e in log.slice(3, 25)] == [3, 4]
    assert [e.index for e in log.slice(3, 10_000)] == [3, 4, 5, 6]


def test_term_vote_and_commit_come_back() -> None:
    disk, log = new_log()
    log.setCurrentTerm(4, "n2")
    add(log, 4, 3)
    log.setRaftCommitIndex(3)
    assert log.commit_unlogged
    log.wal.write(log.take())
    again = RaftLog(*recovery.recover(disk, 4096))
    assert (again.getCurrentTerm(), again.getVotedForNodeId(), again.getRaftCommitIndex()) == (4, "n2", 3)
    assert again.durable_index == 4


def test_a_leaders_commit_index_beyond_the_log_comes_back_and_does_not_count_as_ours() -> None:
    disk, log = new_log()
    add(log, 4, 3)
    log.leader_commit = 4
    log.wal.write(log.take())
    assert recovery.recover(_copy(disk), 4096)[1].leader_commit == 1  # the log says it by itself
    log.leader_commit = 9
    log.setCurrentTerm(4, "n2")
    log.wal.write(log.take())
    again = RaftLog(*recovery.recover(disk, 4096))
    assert (again.leader_commit, again.getRaftCommitIndex(), again.last) == (9, 1, 4)
    again.setCurrentTerm(5, None)
    batch = again.take()
    assert [kind for kind, _ in batch.records] == [wal.META]  # said once


def test_the_log_is_never_cleared() -> None:
    with pytest.raises(AssertionError):
        new_log()[1].clear()
