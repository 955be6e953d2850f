# SPDX-License-Identifier: Apache-2.0
"""One server's Raft: takes steps and messages, asks the policies, sends what they return.

Five calls drive it, in production (driver.py) and in the simulator alike: `step`, `receive`, `propose`/`propose_change`,
`read_index`, `durable`. It never waits, opens nothing and knows no time but its clock.

Kept here: nothing that promises durability (an acknowledgement, a vote, a vote request, one's own vote or one's own copy of an
entry) leaves before the journal has reported the record durable (`_when_durable`, B12).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import Any

import msgpack

from holdfast.consensus import election as el
from holdfast.consensus import log_match, membership, quorum
from holdfast.consensus import types as t
from holdfast.consensus.install import Receiver, Sender
from holdfast.consensus.journal import RaftLog
from holdfast.consensus.leadership import Leadership
from holdfast.consensus.ports import Clock, Disk, Machine, Network, Observer, Random
from holdfast.consensus.seam import CANDIDATE, DISCARDED, FOLLOWER, LEADER, SUCCESS, Peer, Seam, use_clock
from holdfast.consensus.types import Configuration, Message, NotLeaderError, Recovered, Snapshot, Timing

UNKNOWN = 7  # pysyncobj's FAIL_REASON.UNKNOWN_OUTCOME
_FILE = re.compile(r"(snap|restore)-[0-9a-z-]{1,100}\.state")
Callback = Callable[[Any, int], None]


class Raft(Seam):
    """A Raft server. `eligible` False (sealed): it replicates and votes but never campaigns (design.md 13)."""

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
        self.election = el.Election(clock(), timing.election, random)
        self._busy = False  # the state is being replaced
        self._saving = False  # a snapshot is being written
        self._snapshot_wanted = False
        self._restoring: tuple[int, int, t.RestoreFile] | None = None
        self._pull_sent = float("-inf")
        self._installing: Snapshot | None = None
        self._receiver: Receiver | None = None
        self._serving: dict[tuple[str, str], Sender] = {}
        self._outbox: deque[tuple[int, str, Message | None, int]] = deque()
        self._garbage: list[tuple[int, str]] = []
        self._vote_given = False
        self._handlers: dict[type[Any], Callable[[str, Any, float], None]] = {
            t.Append: self._on_append,
            t.Heartbeat: self._on_heartbeat,
            t.Ack: self._on_ack,
            t.HeartbeatAck: self._on_heartbeat_ack,
            t.PreVote: self._on_pre_vote,
            t.PreVoteReply: self._on_pre_vote_reply,
            t.Vote: self._on_vote,
            t.VoteReply: self._on_vote_reply,
            t.TimeoutNow: self._on_timeout_now,
            t.Chunk: self._on_chunk,
            t.ChunkAck: self._on_chunk_ack,
            t.Install: self._on_install,
            t.Pull: self._on_pull,
            t.Removed: self._on_removed,
        }
        self._configuration_changed()

    @staticmethod
    def peer(node_id: str) -> Any:
        """pysyncobj's object for a server."""
        return Peer(node_id)

    @property
    def is_leader(self) -> bool:
        """True while this server leads (it may still be catching up, see `Leadership.ready`)."""
        return self.leadership is not None

    # --- the five calls ---

    def step(self) -> None:
        """Do everything that is due now. Call it after every other call, and every few milliseconds."""
        if self.stopped:
            return
        use_clock(self.clock)
        now = self.clock()
        leading = self.leadership
        if leading is not None and not leading.has_quorum(now):
            self.resign()
        if self.leadership is None and self.election.expired(now):
            self._campaign(now)
        if self.leadership is not None:
            self.drain_commands()
            self.leadership.advance_commit()
        self._apply()
        if self.leadership is not None:
            self.leadership.replicate(now)
        for (peer, _), sender in self._serving.items():
            for chunk in sender.due(self.disk, now, self.timing):
                self.network.send(peer, chunk)
        if self._restoring is not None and not self._has(self._restoring[2].file):
            self._pull(now)
        self._compact()

    def receive(self, peer: str, message: Message) -> None:
        """Take one message of an authenticated server."""
        if self.stopped or self.removed:
            return
        use_clock(self.clock)
        removal = self.removal_of(peer)
        if removal is not None:
            self.network.send(peer, removal)
            return
        self._handlers[type(message)](peer, message, self.clock())

    def propose(self, command: bytes, callback: Callback) -> None:
        """Append a command (type byte and payload). `callback(result, reason)` once it is applied or surely lost.

        Raises NotLeaderError when this server does not lead, or is handing leadership over.
        """
        if self.leadership is None or self.stopped or self.leadership.transfer_target is not None:
            raise NotLeaderError("this server is not the leader")
        self._applyCommand(command, callback)

    def propose_change(self, change: Callable[[Configuration], Configuration], callback: Callback) -> bool:
        """Append the configuration `change(latest)`; False when it is the one in force already.

        Raises NotLeaderError, or RefusedError when another change is under way or the change is not allowed.
        """
        if self.leadership is None:
            raise NotLeaderError("this server is not the leader")
        latest = self.history.latest
        new = change(latest)
        if new == latest:
            return False
        error = self._change_error(new)
        if error:
            raise t.RefusedError(error)
        self.propose(bytes([t.MEMBERSHIP]) + new.pack(), callback)
        return True

    def read_index(self, done: Callable[[bool], None]) -> None:
        """`done(True)` once a read of the local state is linearizable, `done(False)` when leadership is lost."""
        if self.leadership is None:
            done(False)
        else:
            self.leadership.reads.add(done)

    def durable(self, lsn: int) -> None:
        """The journal has everything up to `lsn` on disk."""
        if self.stopped:
            return
        use_clock(self.clock)
        self.log.durable(lsn)
        while self._outbox and self._outbox[0][0] <= lsn:
            _, peer, message, term = self._outbox.popleft()
            if message is not None:
                self.network.send(peer, message)
            elif self.state == CANDIDATE and self.current_term == term:
                self._count_vote(self.node_id)
        for item in [g for g in self._garbage if g[0] <= lsn and g[1] not in self._files_in_use()]:
            self._garbage.remove(item)
            if item[1] in self.disk.list():
                self.disk.remove(item[1])

    # --- helpers ---

    def fail(self, reason: str) -> None:
        """Stop for good: something happened after which no promise can be kept."""
        self.stopped = True
        self.observer.fatal(reason)

    def removed_message(self, peer: str) -> None:
        """Tell `peer`, which has just connected, if it is no longer a member."""
        removal = self.removal_of(peer)
        if removal is not None:
            self.network.send(peer, removal)

    def removal_of(self, peer: str) -> t.Removed | None:
        """What to tell `peer` when a committed configuration has removed it, else None."""
        index, committed = self.history.at(self.commit)
        if peer in committed.removed and committed.member(peer) is None and self.history.latest.member(peer) is None:
            return t.Removed(index)
        return None

    def disconnected(self, peer: str) -> None:
        """The connection to `peer` broke; messages under way may be lost."""
        now = self.clock()
        if self.leadership is not None:
            self.leadership.lost_connection(peer, now)
        for (other, _), sender in self._serving.items():
            if other == peer:
                sender.lost()

    def resign(self) -> None:
        """Follow from now on, without a leader."""
        self._follow(self.current_term, None)
        self.election.forget_leader()
        self.election.reset(self.clock())

    def campaign_now(self) -> None:
        """Do not wait for the election timeout (a new single-server cluster)."""
        self.election.deadline = float("-inf")

    def raise_commit(self, index: int) -> None:
        """Everything up to `index` is committed."""
        self.commit = index
        self.log.setRaftCommitIndex(index)

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
            except Exception:  # queue.Empty of whichever queue pysyncobj uses
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

    # --- hooks of the seam ---

    def on_stock_send(self, peer: str, message: dict[str, Any]) -> None:
        """Stock code grants a vote or hands leadership over."""
        if message["type"] == "response_vote":
            self._vote_given = True
            self._when_durable(peer, t.VoteReply(self.current_term, True))
        elif message["type"] == "timeout_now":
            self.network.send(peer, t.TimeoutNow(self.current_term))
        else:
            raise AssertionError(f"stock code sends {message['type']}")

    def on_parse_configuration(self, command: bytes) -> Configuration | None:
        """The configuration in a command, if it is one."""
        return Configuration.unpack(command[1:]) if command[0] == t.MEMBERSHIP else None

    def on_configuration_proposed(self, request: Configuration) -> bool:
        """In force from now on; stock code appends it next."""
        if self._change_error(request):
            return False
        self.history.append(self.log.last + 1, request)
        self._configuration_changed()
        return True

    def _change_error(self, new: Configuration) -> str | None:
        if self.leadership is None or self.commit < self.leadership.noop_index:
            return "the leader has not committed an entry of its term yet: try again in a moment"
        if self.history.latest_index > self.commit:
            return "another configuration change is under way: try again when it is committed"
        return membership.change_error(self.history.latest, new, self.node_id)

    # --- elections ---

    def _campaign(self, now: float, transfer: bool = False) -> None:
        voters = self.history.latest.voters
        self.election.reset(now)
        if not self.eligible or self.removed or self.node_id not in voters or now < self.hold_off_until:
            return
        if self._busy:
            return
        if self.state != FOLLOWER:
            self.set_state(FOLLOWER)
        self._follow(self.current_term, None)
        if transfer:
            self._elect(now, True)
            return
        self.election.pre_term = self.current_term + 1
        self.election.pre_votes = {self.node_id}
        if quorum.reached(voters, self.election.pre_votes):
            self._elect(now, False)
            return
        for voter in sorted(voters - {self.node_id}):
            self.network.send(
                voter, t.PreVote(self.election.pre_term, self.log.last, self.log.term_at(self.log.last))
            )

    def _elect(self, now: float, transfer: bool) -> None:
        self.election.reset(now)
        self.election.pre_votes, self.election.pre_term = set(), 0
        self.election.votes = set()
        self.set_state(CANDIDATE)
        self.set_term(self.current_term + 1, self.node_id)
        self.votes_count = 0
        last, last_term = self.log.last, self.log.term_at(self.log.last)
        for voter in sorted(self.history.latest.voters - {self.node_id}):
            self._when_durable(voter, t.Vote(self.current_term, last, last_term, transfer))
        self._when_durable(self.node_id, None)

    def _count_vote(self, voter: str) -> None:
        if voter in self.history.latest.voters and voter not in self.election.votes:
            self.election.votes.add(voter)
            self.stock_receive(Peer(voter), {"type": "response_vote", "term": self.current_term})

    def _on_pre_vote(self, peer: str, m: t.PreVote, now: float) -> None:
        granted = (
            m.term > self.current_term
            and self.leadership is None
            and not self.election.sticky(now)
            and el.up_to_date(m.last_term, m.last_index, self.log.term_at(self.log.last), self.log.last)
        )
        self.network.send(peer, t.PreVoteReply(self.current_term, m.term, granted))

    def _on_pre_vote_reply(self, peer: str, m: t.PreVoteReply, now: float) -> None:
        if m.term > self.current_term:
            self._follow(m.term, None)
            return
        if m.granted and m.proposed == self.election.pre_term == self.current_term + 1 and self.leadership is None:
            self.election.pre_votes.add(peer)
            if quorum.reached(self.history.latest.voters, self.election.pre_votes):
                self._elect(now, False)

    def _on_vote(self, peer: str, m: t.Vote, now: float) -> None:
        if not m.transfer and (self.election.sticky(now) or self.leadership is not None):
            self.network.send(peer, t.VoteReply(self.current_term, False))
            return
        self._vote_given = False
        if m.term > self.current_term:
            self._follow(m.term, None)
        self.stock_receive(
            Peer(peer),
            {"type": "request_vote", "term": m.term, "last_log_term": m.last_term, "last_log_index": m.last_index},
        )
        if self._vote_given:
            self.election.reset(now)
        else:
            self.network.send(peer, t.VoteReply(self.current_term, False))

    def _on_vote_reply(self, peer: str, m: t.VoteReply, now: float) -> None:
        if m.term > self.current_term:
            self._follow(m.term, None)
        elif m.granted and m.term == self.current_term and self.state == CANDIDATE:
            self._count_vote(peer)

    def _on_timeout_now(self, peer: str, m: t.TimeoutNow, now: float) -> None:
        if m.term == self.current_term and peer == self.leader_id:
            self.hold_off_until = float("-inf")
            self.election.forget_leader()
            self._campaign(now, transfer=True)

    # --- following ---

    def _accept_leader(self, peer: str, term: int, now: float) -> bool:
        if term < self.current_term:
            return False
        if self.leadership is not None and term == self.current_term:
            self.fail(f"two leaders in term {term}: {self.node_id} and {peer}")
            return False
        self._follow(term, peer)
        self.election.heard(now)
        return True

    def _on_append(self, peer: str, m: t.Append, now: float) -> None:
        if not self._accept_leader(peer, m.term, now):
            self.network.send(peer, t.Ack(self.current_term, m.seq, False, self.log.last, m.prev_index))
            return
        if m.entries and not self.room(sum(len(e.command) for e in m.entries)):
            return
        log = self.log
        try:
            found = log_match.reconcile(
                log.first, log.last, self.commit, log.term_at, m.prev_index, m.prev_term, m.entries
            )
        except AssertionError as error:
            self.fail(str(error))
            return
        if isinstance(found, log_match.Reject):
            self.network.send(peer, t.Ack(self.current_term, m.seq, False, found.hint, m.prev_index))
            return
        changed = False
        if found.cut is not None:
            self._discard_callbacks(found.cut)
            log.deleteEntriesFrom(found.cut - log.first)
            changed = self.history.cut(found.cut)
        for entry in found.new:
            log.add(entry.command, entry.index, entry.term)
            if entry.command[0] == t.MEMBERSHIP:
                self.history.append(entry.index, Configuration.unpack(entry.command[1:]))
                changed = True
        if changed:
            self._configuration_changed()
        if min(m.commit, found.verified) > self.commit:
            self.raise_commit(min(m.commit, found.verified))
        self._when_durable(peer, t.Ack(self.current_term, m.seq, True, found.verified, m.prev_index))

    def _on_heartbeat(self, peer: str, m: t.Heartbeat, now: float) -> None:
        self._accept_leader(peer, m.term, now)
        last = self.log.last
        ack = t.HeartbeatAck(self.current_term, m.seq, last, self.log.term_at(last), self.applied, self.eligible)
        self.network.send(peer, ack)

    def _discard_callbacks(self, start: int) -> None:
        for index in [i for i in self.callbacks if i >= start]:
            for _, callback in self.callbacks.pop(index):
                callback(None, DISCARDED)

    # --- answers to the leader ---

    def _on_ack(self, peer: str, m: t.Ack, now: float) -> None:
        if m.term > self.current_term:
            self._follow(m.term, None)
        elif self.leadership is not None and m.term == self.current_term:
            self.leadership.on_ack(peer, m, now)

    def _on_heartbeat_ack(self, peer: str, m: t.HeartbeatAck, now: float) -> None:
        if m.term > self.current_term:
            self._follow(m.term, None)
        elif self.leadership is not None and m.term == self.current_term:
            self.leadership.on_heartbeat_ack(peer, m, now)

    # --- applying ---

    def _apply(self) -> None:
        while self.applied < self.commit and not self._busy:
            entry = self.log.get(self.applied + 1)
            kind, result = entry.command[0], None
            if kind == t.REGULAR:
                try:
                    result = self.machine.apply(entry.index, entry.term, entry.command[1:])
                except Exception as error:  # an entry that cannot be applied must never be skipped: stop
                    self.fail(f"entry {entry.index} cannot be applied: {type(error).__name__}")
                    return
            elif kind == t.RESTORE:
                file, sha256, size = msgpack.unpackb(entry.command[1:])
                self._busy = True
                self._restoring = (entry.index, entry.term, t.RestoreFile(file, sha256, size))
                self._begin_restore()
                return
            self._applied_entry(entry, result)

    def _applied_entry(self, entry: t.Entry, result: Any) -> None:
        self.applied = entry.index
        for term, callback in self.callbacks.pop(entry.index, ()):
            callback(result, SUCCESS if term == entry.term else DISCARDED)
        if entry.command[0] == t.MEMBERSHIP:
            latest = self.history.latest
            if latest.member(self.node_id) is None and self.node_id in latest.removed:
                self._mark_removed()
        leading = self.leadership
        if leading is not None and entry.index == leading.noop_index:
            self.observer.state_changed()

    def _mark_removed(self) -> None:
        if not self.removed:
            self.removed = True
            self.log.wal.mark_removed()
            if self.state != FOLLOWER:
                self.set_state(FOLLOWER)
            self.observer.was_removed()

    def _on_removed(self, peer: str, m: t.Removed, now: float) -> None:
        # Only a server that was a member can have been removed, and while a leader still speaks to this server, another
        # member's word may be an old one (from before this id was wiped and added again).
        member = self.history.latest.member(self.node_id) is not None
        trusted = peer == self.leader_id or not self.election.sticky(now)
        if member and trusted and m.index > self.history.latest_index:
            self._mark_removed()

    # --- snapshots and state files ---

    def request_snapshot(self) -> None:
        """Write a snapshot at the next opportunity, whatever the size of the log."""
        self._snapshot_wanted = True

    def _compact(self) -> None:
        if self._saving or self._busy or self.applied <= (self.snapshot.index if self.snapshot else self.log.first):
            return
        if not self._snapshot_wanted and self.log.bytes_since_snapshot < self.timing.compact_bytes:
            return
        self._saving, self._snapshot_wanted = True, False
        index, configuration = self.history.at(self.applied)
        self.machine.begin_snapshot(self.applied, self.log.term_at(self.applied), configuration, index)

    def snapshot_saved(self, snapshot: Snapshot | None) -> None:
        """The machine has written a durable snapshot (None: it could not; the log stays as it is)."""
        self._saving = False
        if snapshot is None:
            return
        if snapshot.index < self.log.first or (self.snapshot and snapshot.index <= self.snapshot.index):
            self._drop_file(snapshot.file)
            return
        self.log.snapshot_saved(snapshot, self.timing.keep_bytes)  # logged before the old file may go
        self._replace_snapshot(snapshot)
        self.history.compact(min(snapshot.index, self.log.first))
        self._drop_old_files()

    def _replace_snapshot(self, snapshot: Snapshot) -> None:
        old, self.snapshot = self.snapshot, snapshot
        if old is not None and old.file != snapshot.file:
            self._drop_file(old.file)

    def _drop_old_files(self) -> None:
        pending = {
            msgpack.unpackb(e.command[1:])[0]
            for e in self.log[max(0, (self.snapshot.index if self.snapshot else 0) - self.log.first) :]
            if e.command[0] == t.RESTORE
        }
        distributing = self.leadership.restore.file if self.leadership and self.leadership.restore else None
        for name in self.disk.list():
            if name.startswith("restore-") and name not in pending and name != distributing:
                self._drop_file(name)

    def _drop_file(self, name: str) -> None:
        """Remove a file once everything logged so far is durable and nobody is being sent it."""
        self._garbage = [g for g in self._garbage if g[1] != name]  # an older note would let it go too early
        self._garbage.append((self.log.wal.lsn, name))

    def _files_in_use(self) -> set[str]:
        names = {file for (_, file), sender in self._serving.items() if not sender.complete}
        if self.snapshot is not None:
            names.add(self.snapshot.file)  # equal states have equal names: a received copy may be the current one
        if self._restoring is not None:
            names.add(self._restoring[2].file)
        return names | (self.leadership.files_in_use() if self.leadership else set())

    def _has(self, file: str) -> bool:
        return file in self.disk.list()

    def _begin_restore(self) -> None:
        if self._restoring is not None and self._has(self._restoring[2].file):
            self.machine.begin_restore(*self._restoring)

    def restored(self, index: int) -> None:
        """The machine's state is that of the restore file."""
        assert self._restoring is not None and self._restoring[0] == index
        self._restoring, self._busy = None, False
        if self.leadership is not None:
            self.leadership.end_restore()
        self._applied_entry(self.log.get(index), index)
        self.request_snapshot()

    def _pull(self, now: float) -> None:
        if now - self._pull_sent < self.timing.resend * 4 or self._restoring is None:
            return
        self._pull_sent = now
        restore = self._restoring[2]
        for member in self.history.latest.members:
            if member.node_id != self.node_id:
                self.network.send(member.node_id, t.Pull(restore.file, restore.sha256, restore.size))

    def _on_pull(self, peer: str, m: t.Pull, now: float) -> None:
        if _FILE.fullmatch(m.file) and m.file.startswith("restore-") and self._has(m.file):
            sender = self._serving.get((peer, m.file))
            if sender is None or sender.complete:
                self._serving[(peer, m.file)] = Sender(m.file, m.size, m.sha256)
        elif self.leadership is not None:
            self.leadership.offer_snapshot(peer)  # the file is gone because a snapshot covers the restore

    def _on_chunk(self, peer: str, m: t.Chunk, now: float) -> None:
        if not _FILE.fullmatch(m.file):
            return
        if self._has(m.file):
            self.network.send(peer, t.ChunkAck(m.file, m.size, True))
            return
        receiver = self._receiver
        if receiver is None or (receiver.file, receiver.sha256) != (m.file, m.sha256):
            wanted = self._restoring is not None and self._restoring[2].file == m.file
            if peer != self.leader_id and not wanted:
                return
            if not self.room(m.size):
                return
            if receiver is not None and receiver.part in self.disk.list():
                self.disk.remove(receiver.part)
            receiver = self._receiver = Receiver(m.file, m.size, m.sha256)
        if receiver.take(self.disk, m) and receiver.finish(self.disk):
            self._receiver = None
            self.network.send(peer, t.ChunkAck(m.file, m.size, True))
            if self._restoring is not None and self._restoring[2].file == m.file:
                self._begin_restore()
            return
        self.network.send(peer, t.ChunkAck(m.file, receiver.offset, False))

    def _on_chunk_ack(self, peer: str, m: t.ChunkAck, now: float) -> None:
        sender = self._serving.get((peer, m.file))
        if sender is not None:
            sender.on_ack(m, now)
            if sender.complete:
                del self._serving[(peer, m.file)]
        if self.leadership is not None:
            self.leadership.on_chunk_ack(peer, m, now)
            self.observer.state_changed()

    def _on_install(self, peer: str, m: t.Install, now: float) -> None:
        if not self._accept_leader(peer, m.term, now):
            self.network.send(peer, t.Ack(self.current_term, m.seq, False, self.log.last, self.log.last))
            return
        snapshot = Snapshot.unpack(m.snapshot)
        log = self.log
        if self._restoring is not None and not self._has(self._restoring[2].file):
            if snapshot.index <= log.last:
                self._adopt(peer, snapshot)
                return
        elif self._busy:
            return
        known = snapshot.index <= self.commit or (
            log.first <= snapshot.index <= log.last and log.term_at(snapshot.index) == snapshot.term
        )
        if known:  # the leader's log and ours agree up to there
            if snapshot.index > self.commit:
                self.raise_commit(snapshot.index)
            self._drop_file(snapshot.file)
        elif not self._has(snapshot.file):
            self.network.send(peer, t.ChunkAck(snapshot.file, 0, False))
            return
        else:
            self._busy, self._installing, self._restoring = True, snapshot, None
            self._forget_callbacks(max(log.last, snapshot.index))
            log.reset(snapshot)  # logged before the old file may go
            self._replace_snapshot(snapshot)
            self.commit = snapshot.index
            self.history = membership.History(snapshot.configuration_index, snapshot.configuration)
            self._configuration_changed()
            self.machine.begin_install(snapshot)
        self._when_durable(peer, t.Ack(self.current_term, m.seq, True, snapshot.index, snapshot.index))

    def _adopt(self, peer: str, snapshot: Snapshot) -> None:
        """Take the state of a snapshot that covers a RESTORE whose file nobody has any more; the log stays as it is."""
        log = self.log
        if not (self.applied < snapshot.index <= log.last and log.term_at(snapshot.index) == snapshot.term):
            return
        if not self._has(snapshot.file):
            self.network.send(peer, t.ChunkAck(snapshot.file, 0, False))
            return
        self._restoring, self._installing = None, snapshot
        self._forget_callbacks(snapshot.index)
        if snapshot.index > self.commit:
            self.raise_commit(snapshot.index)
        log.snapshot_saved(snapshot, self.timing.keep_bytes)
        self._replace_snapshot(snapshot)
        self.machine.begin_install(snapshot)

    def _forget_callbacks(self, index: int) -> None:
        """Whether proposals up to `index` took effect is not known here: a snapshot covers them."""
        for position in [i for i in self.callbacks if i <= index]:
            for _, callback in self.callbacks.pop(position):
                callback(None, UNKNOWN)

    def installed(self, snapshot: Snapshot) -> None:
        """The machine's state is that of the snapshot."""
        self.applied = max(self.applied, snapshot.index)
        self._busy, self._installing = False, None
        self.observer.state_changed()
