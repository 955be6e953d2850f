# SPDX-License-Identifier: Apache-2.0
"""Mutants of what is durable when."""

from __future__ import annotations

from typing import Any

from holdfast.consensus import journal, recovery, state_files, wal
from holdfast.consensus.raft import Raft
from tests.sim.disk import SimDisk
from tests.sim.mutants.registry import Patch, mutant
from tests.sim.node import Node


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


@mutant("B12")
def failed_syncs_are_ignored(patch: Patch) -> None:
    plain = SimDisk.sync

    def lax(self: Any, name: str) -> None:
        try:
            plain(self, name)
        except OSError:
            if not name.startswith("wal-"):
                raise

    patch.setattr(SimDisk, "sync", lax)


@mutant("B12")
def failed_syncs_are_tried_again(patch: Patch) -> None:
    plain = SimDisk.sync

    def stubborn(self: Any, name: str) -> None:
        try:
            plain(self, name)
        except OSError:
            plain(self, name)

    patch.setattr(SimDisk, "sync", stubborn)


@mutant("B12")
def what_recovery_read_is_not_made_durable(patch: Patch) -> None:
    def zero_only(disk: Any, segment: Any, _last_flush: int) -> None:
        name = wal.segment_name(segment.sequence)
        if any(disk.read(name, segment.end)):
            disk.write(name, segment.end, bytes(segment.size - segment.end))
            disk.sync(name)

    patch.setattr(recovery, "_settle_tail", zero_only)


@mutant("vote persistence")
def own_vote_counts_before_it_is_durable(patch: Patch) -> None:
    plain = Raft._when_durable

    def hasty(self: Any, peer: str, message: Any) -> None:
        if message is None:
            self._count_vote(self.node_id)
        else:
            plain(self, peer, message)

    patch.setattr(Raft, "_when_durable", hasty)


@mutant("log repair")
def cuts_are_not_recorded(patch: Patch) -> None:
    def forget(self: Any, index: int, prev_term: int) -> int:
        self._head.prev_index, self._head.prev_term = index - 1, prev_term
        return int(self.lsn)

    patch.setattr(wal.Wal, "cut", forget)


@mutant("journal")
def damage_passes_for_a_torn_tail(patch: Patch) -> None:
    patch.setattr(recovery, "_durable_beyond", lambda *_arguments: None)
