# SPDX-License-Identifier: Apache-2.0
"""Mutants of reads and leases."""

from __future__ import annotations

from typing import Any

from holdfast.consensus import leadership, raft
from holdfast.consensus.raft import Raft
from holdfast.consensus.reads import Lease
from holdfast.consensus.types import Timing
from tests.sim.mutants.registry import Patch, mutant


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


@mutant("B6, reads")
def heartbeat_answers_of_older_terms_count(patch: Patch) -> None:
    def lax(self: Any, peer: str, m: Any, now: float) -> None:
        if m.term > self.current_term:
            self._follow(m.term, None)
        elif self.leadership is not None:
            self.leadership.on_heartbeat_ack(peer, m, now)

    patch.setattr(Raft, "_on_heartbeat_ack", lax)


@mutant("lease")
def leases_are_too_long(patch: Patch) -> None:
    patch.setattr(Timing, "lease", property(lambda self: self.election * 3 if self.lease_reads else 0.0))


@mutant("lease")
def leases_begin_with_the_answer(patch: Patch) -> None:
    plain = Lease.confirm

    def late(self: Any, seq: int) -> None:
        before = len(self._sent)
        plain(self, seq)
        if len(self._sent) != before:
            self.until = self.clock() + self.duration

    init = leadership.Leadership.__init__

    def with_clock(self: Any, server: Any, now: float) -> None:
        init(self, server, now)
        self.lease.clock = server.clock

    patch.setattr(leadership.Leadership, "__init__", with_clock)
    patch.setattr(Lease, "confirm", late)


@mutant("lease")
def leases_outlive_a_transfer(patch: Patch) -> None:
    patch.setattr(Lease, "end", lambda _self: None)
