# SPDX-License-Identifier: Apache-2.0
"""Ways to break the code on purpose; the simulator must catch every one. `python -m tests.sim.mutants [NAME…]` prints the table.

Each mutant patches the running code through a `pytest.MonkeyPatch`. "Caught" means a Violation of a checked promise, a JournalError,
a needed file gone, or liveness lost; an error of the mutant itself (TypeError and the like) does not count.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.consensus import (
    install,
    journal,
    leadership,
    log_match,
    membership,
    raft,
    recovery,
    state_files,
    voting,
    wal,
)
from holdfast.consensus import types as t
from holdfast.consensus.election import Election
from holdfast.consensus.raft import Raft
from holdfast.consensus.seam import CANDIDATE
from tests.sim.scenario import run
from tests.sim.world import Node, Violation

Patch = pytest.MonkeyPatch
MUTANTS: dict[str, tuple[str, Callable[[Patch], None]]] = {}


def mutant(fault: str) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Register a mutant; `fault` is the B-number or the promise it attacks."""

    def register(apply: Callable[[Patch], None]) -> Callable[[Patch], None]:
        MUTANTS[apply.__name__] = (fault, apply)
        return apply

    return register


def seeds_to_catch(apply: Callable[[Patch], None], limit: int) -> tuple[int, str] | None:
    """(seeds run, what was violated), or None when `limit` seeds passed."""
    with pytest.MonkeyPatch.context() as patch:
        apply(patch)
        for seed in range(1, limit + 1):
            try:
                run(seed)
            except (Violation, t.JournalError, FileNotFoundError) as error:
                return seed, str(error).split("\n")[0]
    return None


# --- durability ---


@mutant("B12")
def fdatasync_does_nothing(patch: Patch) -> None:
    start = Node.start

    def start_without_sync(node: Node) -> None:
        start(node)
        node.disk.lose_syncs = True

    patch.setattr(Node, "start", start_without_sync)


@mutant("B12")
def acknowledge_before_sync(patch: Patch) -> None:
    patch.setattr(
        Raft,
        "_when_durable",
        lambda self, peer, message: self.network.send(peer, message) if message else self._count_vote(self.node_id),
    )


@mutant("B12")
def leader_counts_itself_before_sync(patch: Patch) -> None:
    patch.setattr(
        journal.RaftLog, "durable_index", property(lambda self: self.last, lambda _self, _value: None), raising=False
    )


@mutant("vote persistence")
def term_and_vote_are_not_recorded(patch: Patch) -> None:
    patch.setattr(wal.Wal, "meta", lambda self, _term, _vote: self.lsn)


@mutant("B4")
def log_behind_a_snapshot_is_dropped_at_start(patch: Patch) -> None:
    recover = recovery.recover

    def forgetful(disk: Any, size: int) -> Any:
        log, result = recover(disk, size)
        if result.snapshot:
            keep = max(1, result.snapshot.index - result.entries[0].index + 1)
            del result.entries[keep:]
        return log, result

    patch.setattr(recovery, "recover", forgetful)


@mutant("B4")
def old_snapshot_goes_before_the_new_is_recorded(patch: Patch) -> None:
    def drop(self: Any, name: str) -> None:
        current = self.snapshot.file if self.snapshot else None
        if name in self.disk.list() and name != current:
            self.disk.remove(name)
            self.disk.sync_dir()

    patch.setattr(state_files.StateFiles, "_drop_file", drop)


# --- log matching and commit ---


@mutant("B1")
def cut_without_a_conflict(patch: Patch) -> None:
    plain = log_match.reconcile

    def blind(first: int, last: int, commit: int, term_at: Any, prev: int, prev_term: int, entries: Any) -> Any:
        found = plain(first, last, commit, term_at, prev, prev_term, entries)
        if isinstance(found, log_match.Accept) and found.cut is None and first <= prev < last and prev + 1 > commit:
            return log_match.Accept(prev + 1, entries, prev + len(entries))
        return found

    patch.setattr(log_match, "reconcile", blind)


@mutant("B2")
def rejections_never_walk_back(patch: Patch) -> None:
    plain = log_match.reconcile

    def stubborn(*arguments: Any) -> Any:
        found = plain(*arguments)
        return log_match.Reject(arguments[1]) if isinstance(found, log_match.Reject) else found

    patch.setattr(log_match, "reconcile", stubborn)
    patch.setattr(
        leadership.Progress, "on_reject", lambda self, prev, hint, _now: setattr(self, "next", min(prev, hint) + 1)
    )


@mutant("B3")
def commit_beyond_what_was_verified(patch: Patch) -> None:
    plain = Raft._on_heartbeat

    def eager(self: Any, peer: str, m: Any, now: float) -> None:
        plain(self, peer, m, now)
        leader = _WORLD.get(peer)
        if leader is not None and self.leadership is None and self.leader_id == peer:
            self.commit = max(self.commit, min(leader.raft.commit, self.log.last))

    patch.setattr(Raft, "_on_heartbeat", eager)
    start = Node.start

    def remember(node: Node) -> None:
        _WORLD[node.id] = node
        start(node)

    patch.setattr(Node, "start", remember)


_WORLD: dict[str, Node] = {}


@mutant("Raft §5.4.2")
def commit_by_counting_older_terms(patch: Patch) -> None:
    plain = leadership.quorum.commit_index

    def lax(matched: Any, voters: Any, commit: int, term: int, _term_at: Any) -> int:
        return plain(matched, voters, commit, term, lambda _index: term)

    patch.setattr(leadership.quorum, "commit_index", lax)


@mutant("quorum")
def a_minority_commits(patch: Patch) -> None:
    patch.setattr(leadership.quorum, "majority", lambda voters: max(1, len(voters) // 2))


@mutant("learners")
def learners_count_for_commit(patch: Patch) -> None:
    plain = leadership.quorum.commit_index

    def all_count(matched: Any, voters: Any, commit: int, term: int, term_at: Any) -> int:
        best = sorted(matched.values(), reverse=True)[: len(voters)]
        return plain(dict(zip(sorted(voters), best, strict=False)), voters, commit, term, term_at)

    patch.setattr(leadership.quorum, "commit_index", all_count)


@mutant("B6")
def acks_of_older_terms_count(patch: Patch) -> None:
    def lax(self: Any, peer: str, m: Any, now: float) -> None:
        if m.term > self.current_term:
            self._follow(m.term, None)
        elif self.leadership is not None:
            self.leadership.on_ack(peer, m, now)

    patch.setattr(Raft, "_on_ack", lax)


@mutant("B1")
def match_taken_beyond_what_was_compared(patch: Patch) -> None:
    plain = log_match.reconcile

    def generous(*arguments: Any) -> Any:
        found = plain(*arguments)
        if isinstance(found, log_match.Accept) and found.cut is None and not found.new:
            return log_match.Accept(None, (), max(found.verified, arguments[1]))
        return found

    patch.setattr(log_match, "reconcile", generous)


# --- elections ---


@mutant("B8")
def votes_of_strangers_and_repeats_count(patch: Patch) -> None:
    def count(self: Any, voter: str) -> None:
        self.stock_receive(self.peer(voter), {"type": "response_vote", "term": self.current_term})
        if self.state == CANDIDATE:
            self.stock_receive(self.peer(voter), {"type": "response_vote", "term": self.current_term})

    patch.setattr(voting.Voting, "_count_vote", count)


@mutant("Raft §5.4.1")
def votes_for_logs_that_lag(patch: Patch) -> None:
    plain = voting.Voting._on_vote

    def lax(self: Any, peer: str, m: Any, now: float) -> None:
        plain(self, peer, m._replace(last_index=1 << 60, last_term=1 << 60), now)

    patch.setattr(voting.Voting, "_on_vote", lax)
    patch.setattr(voting, "up_to_date", lambda *_arguments: True)


@mutant("Raft §5.2")
def two_votes_in_one_term(patch: Patch) -> None:
    plain = voting.Voting._on_vote

    def lax(self: Any, peer: str, m: Any, now: float) -> None:
        if self.state != 2:
            self.voted_for = None
        plain(self, peer, m, now)

    patch.setattr(voting.Voting, "_on_vote", lax)
    patch.setattr(Election, "sticky", lambda _self, _now: False)


@mutant("B7")
def leaders_without_a_quorum_go_on(patch: Patch) -> None:
    patch.setattr(leadership.Leadership, "has_quorum", lambda _self, _now: True)
    patch.setattr(
        Raft,
        "_on_heartbeat_ack",
        lambda self, peer, m, now: self.leadership and self.leadership.on_heartbeat_ack(peer, m, now),
    )
    patch.setattr(Raft, "_on_ack", lambda self, peer, m, now: self.leadership and self.leadership.on_ack(peer, m, now))


# --- reads ---


@mutant("reads")
def reads_without_a_round(patch: Patch) -> None:
    patch.setattr(raft.Raft, "read_index", lambda self, done: done(self.leadership is not None))


@mutant("reads")
def rounds_confirmed_by_older_heartbeats(patch: Patch) -> None:
    plain = leadership.Reads.start
    patch.setattr(leadership.Reads, "start", lambda self, seq, commit: plain(self, max(0, seq - 3), commit))


@mutant("reads")
def reads_released_before_their_index_is_applied(patch: Patch) -> None:
    plain = leadership.Reads.release
    patch.setattr(leadership.Reads, "release", lambda self, _applied: plain(self, 1 << 60))


@mutant("reads")
def reads_before_the_no_op_is_committed(patch: Patch) -> None:
    init = leadership.Leadership.__init__

    def early(self: Any, server: Any, now: float) -> None:
        init(self, server, now)
        self.noop_index = 0

    patch.setattr(leadership.Leadership, "__init__", early)


# --- membership ---


@mutant("B5")
def two_configurations_at_once(patch: Patch) -> None:
    patch.setattr(Raft, "_change_waits", lambda self: self.leadership is None)


@mutant("B5")
def configurations_in_force_when_applied(patch: Patch) -> None:
    plain = membership.History.append
    applied = Raft._applied_entry

    def late(self: Any, index: int, configuration: Any) -> None:
        self.__dict__.setdefault("waiting", []).append((index, configuration))

    def on_applied(self: Any, entry: Any, result: Any) -> None:
        for index, configuration in self.history.__dict__.pop("waiting", []):
            plain(self.history, index, configuration)
        self._configuration_changed()
        applied(self, entry, result)

    patch.setattr(membership.History, "append", late)
    patch.setattr(Raft, "_applied_entry", on_applied)


@mutant("B5")
def configurations_are_not_rolled_back(patch: Patch) -> None:
    patch.setattr(membership.History, "cut", lambda _self, _index: False)


# --- files ---


@mutant("B9")
def chunk_offsets_are_ignored(patch: Patch) -> None:
    def take(self: Any, disk: Any, chunk: Any) -> bool:
        if not self._created:
            disk.create(self.part, 0)
            self._created = True
        if chunk.data:
            disk.write(self.part, self.offset, chunk.data)
            self.offset = min(self.size, self.offset + len(chunk.data))
        return bool(self.offset == self.size)

    patch.setattr(install.Receiver, "take", take)
    patch.setattr(install.Receiver, "finish", _finish_without_hash)


@mutant("B9")
def files_are_not_synced(patch: Patch) -> None:
    def finish(self: Any, disk: Any) -> bool:
        disk.rename(self.part, self.file)
        return True

    patch.setattr(install.Receiver, "finish", finish)


def _finish_without_hash(self: Any, disk: Any) -> bool:
    disk.sync(self.part)
    disk.rename(self.part, self.file)
    disk.sync_dir()
    return True


@mutant("design 6")
def restores_without_a_majority_of_files(patch: Patch) -> None:
    """Liveness only: members pull, and nobody may have the file any more."""
    patch.setattr(leadership.Leadership, "restore_held", lambda _self: True)
    patch.setattr(state_files.StateFiles, "_on_pull", lambda *_arguments: None)


def main() -> int:
    """Print the table; 1 when a mutant survived."""
    names = sys.argv[1:] or list(MUTANTS)
    survived = 0
    print("| mutant | attacks | seeds | caught by |\n|---|---|---|---|")
    for name in names:
        fault, apply = MUTANTS[name]
        found = seeds_to_catch(apply, 300)
        survived += found is None
        seeds, what = found if found else ("more than 300", "nothing")
        print(f"| {name.replace('_', ' ')} | {fault} | {seeds} | {what[:90]} |", flush=True)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
