# SPDX-License-Identifier: Apache-2.0
"""Mutants of log matching and commit."""

from __future__ import annotations

from typing import Any

from holdfast.consensus import leadership, log_match, membership
from holdfast.consensus.raft import Raft
from holdfast.consensus.seam import DISCARDED
from tests.sim.mutants.registry import Patch, mutant
from tests.sim.node import Node


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


@mutant("design 16")
def entries_that_a_member_cannot_read(patch: Patch) -> None:
    patch.setattr(membership, "lowest_format", lambda _configuration: 1 << 30)


@mutant("history")
def cut_proposals_are_said_to_have_failed(patch: Patch) -> None:
    def sure(self: Any, start: int) -> None:
        for index in [i for i in self.callbacks if i >= start]:
            for _, callback in self.callbacks.pop(index):
                callback(None, DISCARDED)

    patch.setattr(Raft, "_abandon_callbacks", sure)
