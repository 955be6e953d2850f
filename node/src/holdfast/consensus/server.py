# SPDX-License-Identifier: Apache-2.0
"""The state every part of a Raft server shares, and the few moves they all make: follow, fail, raise commit, apply."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable
from typing import Any

from holdfast.consensus import membership
from holdfast.consensus import types as t
from holdfast.consensus.election import Election
from holdfast.consensus.install import Receiver, Sender
from holdfast.consensus.journal import RaftLog
from holdfast.consensus.leadership import Leadership
from holdfast.consensus.ports import Clock, Disk, Machine, Network, Observer, Random
from holdfast.consensus.seam import CANDIDATE, DISCARDED, FOLLOWER, LEADER, SUCCESS, Peer, Seam, use_clock
from holdfast.consensus.types import Configuration, Message, Recovered, Timing

UNKNOWN = 7  # pysyncobj's FAIL_REASON.UNKNOWN_OUTCOME
Callback = Callable[[Any, int], None]


class Server(Seam):
    """Base of `Raft`. `eligible` False (sealed): it replicates and votes but never campaigns (design.md 13)."""

    log: RaftLog

    def __init__(
        self,
        node_id: str,
        log: RaftLog,
        recovered: Recovered,
        *,
        clock: Clock,
        random: Random,
        network: Network,
        machine: Machine,
        disk: Disk,
        observer: Observer,
        timing: Timing,
    ) -> None:
        self.leadership: Leadership | None = None
        self.observer = observer
        self.clock = clock
        use_clock(clock)
        super().__init__(node_id, log, self._on_state)
        self.node_id = node_id
        self.network = network
        self.machine = machine
        self.disk = disk
        self.timing = timing
        self.stopped = False
        self.eligible = False
        self.removed = recovered.removed
        self.snapshot = recovered.snapshot
        self.room: Callable[[int], bool] = lambda _size: True
        self.hold_off_until = float("-inf")
        self.leader_id: str | None = None
        snapshot = recovered.snapshot
        base = snapshot.configuration if snapshot else Configuration(recovered.cluster_id, ())
        self.history = membership.History(snapshot.configuration_index if snapshot else 0, base)
        for entry in recovered.entries[1:]:
            if entry.command[0] == t.MEMBERSHIP:
                self.history.append(entry.index, Configuration.unpack(entry.command[1:]))
        self.applied = snapshot.index if snapshot else 1
        self.commit = max(recovered.commit, self.applied)
        self.random = random
        self.election = Election(clock(), timing.election, random)
        self._removal_said = (0, 0)  # (index, term) of `Removed`, until it is believed or refuted
        self._busy = False  # the state is being replaced
        self._saving = False  # a snapshot is being written
        self._snapshot_wanted = False
        self._snapshot_after = float("-inf")
        self._restoring: tuple[int, int, t.RestoreFile] | None = None
        self._pull_sent = float("-inf")
        self._pulls = 0  # of the file that is being restored, since the last time some of it came
        self._pulled = 0  # bytes of it that were here at the last pull
        self._unclaimed: dict[str, float] = {}  # restore files that no entry names, and since when that is known
        self._restored_files: set[str] = set()  # restore files that have been applied
        self._receiver: Receiver | None = None
        self._received_at = float("-inf")  # the last time some of it came
        self._resume_for = ""  # who asked how much of the file is here
        self._serving: dict[tuple[str, str], Sender] = {}
        self._outbox: deque[tuple[int, str, Message | None, int]] = deque()
        self._garbage: list[tuple[int, str]] = []
        self._vote_given = False

    @staticmethod
    def peer(node_id: str) -> Any:
        """pysyncobj's object for a server."""
        return Peer(node_id)

    @property
    def is_leader(self) -> bool:
        """True while this server leads (it may still be catching up, see `Leadership.ready`)."""
        return self.leadership is not None

    def fail(self, reason: str) -> None:
        """Stop for good: something happened after which no promise can be kept."""
        self.stopped = True
        self.observer.fatal(reason)

    def raise_commit(self, index: int) -> None:
        """Everything up to `index` is committed."""
        self.commit = index
        self.log.setRaftCommitIndex(index)

    def request_snapshot(self) -> None:
        """Write a snapshot at the next opportunity, whatever the size of the log."""
        self._snapshot_wanted = True

    def resign(self) -> None:
        """Follow from now on, without a leader."""
        self._follow(self.current_term, None)
        self.election.forget_leader()
        self.election.reset(self.clock())

    def _when_durable(self, peer: str, message: Message | None) -> None:
        lsn = self.log.wal.lsn
        if lsn <= self.log.durable_lsn and not self._outbox and message is not None:
            self.network.send(peer, message)
        else:
            self._outbox.append((lsn, peer, message, self.current_term))

    def _follow(self, term: int, leader: str | None) -> None:
        if term > self.current_term:
            self.set_term(term, None)
        if self.state != FOLLOWER:
            self.set_state(FOLLOWER)
        if leader != self.leader_id or leader is None:
            self.leader_id = leader
            self.stock_leader = Peer(leader) if leader else None
            self.observer.state_changed()

    def _on_state(self, old: int, new: int) -> None:
        if old == LEADER and self.leadership is not None:
            ended, self.leadership = self.leadership, None
            self.leader_id = None
            ended.end()
            self._drop_queue()
            # Its own deadline ran out long ago. Who leads next may still be waiting for its disk before it asks for votes.
            self.election.reset(self.clock())
        if new == LEADER:
            self.leader_id = self.node_id
            self.leadership = Leadership(self, self.clock())
        elif new == CANDIDATE:
            self.leader_id = None
        self.observer.state_changed()

    def _drop_queue(self) -> None:
        while True:
            try:
                _, callback = self.queue.get_nowait()
            except queue.Empty:
                return
            if callback is not None:
                callback(None, DISCARDED)

    def _configuration_changed(self) -> None:
        latest = self.history.latest
        voters = latest.voters
        self.other_voters = {Peer(v) for v in voters if v != self.node_id}
        self.other_non_voters = {
            Peer(m.node_id) for m in latest.members if m.node_id not in voters and m.node_id != self.node_id
        }
        if self.leadership is not None:
            self.leadership.sync_members(self.clock())
        self.observer.state_changed()

    def _applied_entry(self, entry: t.Entry, result: Any) -> None:
        self.applied = entry.index
        for term, callback in self.callbacks.pop(entry.index, ()):
            callback(result, SUCCESS if term == entry.term else DISCARDED)
        leading = self.leadership
        if leading is not None and entry.index == leading.noop_index:
            self.observer.state_changed()

    def _mark_removed(self) -> None:
        # Never because of an entry of one's own log: a leader sends nothing to a server that its configuration lacks, so whoever
        # applies its own removal has been added again since and is catching up.
        if not self.removed:
            self.removed = True
            self.log.wal.mark_removed()
            if self.state != FOLLOWER:
                self.set_state(FOLLOWER)
            self.observer.was_removed()

    def _abandon_callbacks(self, start: int) -> None:
        """Proposals from `start` on were cut here. Another server may still hold them, win an election and commit them."""
        for index in [i for i in self.callbacks if i >= start]:
            for _, callback in self.callbacks.pop(index):
                callback(None, UNKNOWN)

    def _forget_callbacks(self, index: int) -> None:
        """Whether proposals up to `index` took effect is not known here: a snapshot covers them."""
        for position in [i for i in self.callbacks if i <= index]:
            for _, callback in self.callbacks.pop(position):
                callback(None, UNKNOWN)
