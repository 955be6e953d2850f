# SPDX-License-Identifier: Apache-2.0
"""One server's Raft: takes steps and messages, asks the policies, sends what they return.

Five calls drive it, in production (driver.py) and in the simulator alike: `step`, `receive`, `propose`/`propose_change`,
`read_index`, `durable`. It never waits, opens nothing and knows no time but its clock.

Kept here: nothing that promises durability (an acknowledgement, a vote, a vote request, one's own vote or one's own copy of an
entry) leaves before the journal has reported the record durable (`_when_durable`, B12).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgpack

from holdfast.consensus import log_match, membership
from holdfast.consensus import types as t
from holdfast.consensus.seam import CANDIDATE, use_clock
from holdfast.consensus.server import Callback
from holdfast.consensus.state_files import StateFiles
from holdfast.consensus.types import Configuration, Message, NotLeaderError
from holdfast.consensus.wal import ENTRY_EXTRA

MAX_TERM_JUMP = 1 << 32  # no election ever gets that far; following one would use up the terms there are


class Raft(StateFiles):
    """A Raft server: `Server` (shared state) ← `Voting` ← `StateFiles` ← this."""

    kinds: Mapping[int, int] = t.KINDS

    def __init__(self, *args: Any, **ports: Any) -> None:
        super().__init__(*args, **ports)
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
            self._leave_office(now)
        self._apply()
        if self.leadership is not None:
            self.leadership.replicate(now)
        for (peer, _), sender in self._serving.items():
            for chunk in sender.due(self.disk, now, self.timing):
                self.network.send(peer, chunk)
        if self._removal_said[0]:
            self._believe_removal(not self.election.sticky(now))
        if self._restoring is not None and not self._has(self._restoring[2].file):
            self._pull(now)
        self._resume_part()
        self._compact()

    def _leave_office(self, now: float) -> None:
        """Hand over, or resign, once the change is committed that took this leader's vote (dissertation §4.2.2)."""
        leading, history = self.leadership, self.history
        if leading is None or self.node_id in history.latest.voters or history.latest_index > self.commit:
            return
        if leading.transfer_target is None and leading.begin_transfer(None, now, self.timing.quorum) is None:
            self.resign()

    def receive(self, peer: str, message: Message) -> None:
        """Take one message of an authenticated server."""
        if self.stopped or self.removed:
            return
        use_clock(self.clock)
        removal = self.removal_of(peer)
        if removal is not None:
            if not isinstance(
                message, t.Removed
            ):  # two that hold each other for removed would answer each other for ever
                self.network.send(peer, removal)
            return
        if getattr(message, "term", 0) > self.current_term + MAX_TERM_JUMP:
            raise ValueError(f"term {message.term} is far beyond {self.current_term}")  # type: ignore[union-attr]
        self._handlers[type(message)](peer, message, self.clock())

    def propose(self, command: bytes, callback: Callback) -> None:
        """Append a command (type byte and payload). `callback(result, reason)` once it is applied or surely lost.

        Raises NotLeaderError when this server does not lead, or is handing leadership over, and RefusedError when a member does not
        know this kind of entry yet.
        """
        if self.leadership is None or self.stopped or self.leadership.transfer_target is not None:
            raise NotLeaderError("this server is not the leader")
        lowest = membership.lowest_format(self.history.latest)
        if self.kinds[command[0]] > lowest:
            raise t.RefusedError(
                f"this needs log format {self.kinds[command[0]]}, but a member reads only {lowest}: install a newer version on it"
            )
        self._applyCommand(command, callback)

    def propose_change(self, change: Callable[[Configuration], Configuration], callback: Callback) -> bool:
        """Append the configuration `change(latest)`; False when it is the one in force already, and committed.

        Raises NotLeaderError, or RefusedError when another change is under way or the change is not allowed.
        """
        if self.leadership is None:
            raise NotLeaderError("this server is not the leader")
        latest = self.history.latest
        new = change(latest)
        # Be it this very change that waits: who is told "it is so already" may wipe or start a server on the strength of it.
        if self._change_waits():
            raise t.RefusedError("another configuration change is under way: try again in a moment", passing=True)
        if new == latest:
            return False
        error = membership.change_error(latest, new, self.node_id)
        if error:
            raise t.RefusedError(error)
        missing = self.leadership.change_refusal(new.voters, self.clock()) if new.voters != latest.voters else None
        if missing:
            raise t.RefusedError(missing, passing=True)
        self.propose(bytes([t.MEMBERSHIP]) + new.pack(), callback)
        return True

    def read_index(self, done: Callable[[bool], None]) -> None:
        """`done(True)` once a read of the local state is linearizable, `done(False)` when leadership is lost."""
        leading = self.leadership
        if leading is None:
            done(False)
        elif leading.may_read(self.clock()):
            leading.reads.covered(self.commit, done)
            leading.reads.release(self.applied)
        else:
            leading.reads.add(done)

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

    def removed_message(self, peer: str) -> None:
        """Tell `peer`, which has just connected, if it is no longer a member."""
        removal = self.removal_of(peer)
        if removal is not None:
            self.network.send(peer, removal)

    def removal_of(self, peer: str) -> t.Removed | None:
        """What to tell `peer` when a committed configuration has removed it, else None."""
        index, committed = self.history.at(self.commit)
        if peer in committed.removed and committed.member(peer) is None and self.history.latest.member(peer) is None:
            return t.Removed(index, self.log.term_at(self.commit))
        return None

    def disconnected(self, peer: str) -> None:
        """The connection to `peer` broke; messages under way may be lost."""
        now = self.clock()
        if self.leadership is not None:
            self.leadership.lost_connection(peer, now)
        for (other, _), sender in self._serving.items():
            if other == peer:
                sender.lost()

    def on_parse_configuration(self, command: bytes) -> Configuration | None:
        """The configuration in a command, if it is one."""
        return Configuration.unpack(command[1:]) if command[0] == t.MEMBERSHIP else None

    def on_configuration_proposed(self, request: Configuration) -> bool:
        """In force from now on; stock code appends it next."""
        if self._change_waits() or membership.change_error(self.history.latest, request, self.node_id):
            return False
        self.history.append(self.log.last + 1, request)
        self._configuration_changed()
        return True

    def _change_waits(self) -> bool:
        """True until this term's no-op and the configuration before are committed (B5; the 2015 correction to §4.1)."""
        leading = self.leadership
        return leading is None or self.commit < leading.noop_index or self.history.latest_index > self.commit

    def _on_append(self, peer: str, m: t.Append, now: float) -> None:
        if not self._accept_leader(peer, m.term, now):
            self.network.send(peer, t.Ack(self.current_term, m.seq, False, self.log.last, m.prev_index))
            return
        self.log.leader_commit = max(self.log.leader_commit, m.commit)
        if m.entries and not self.room(sum(len(e.command) + ENTRY_EXTRA for e in m.entries)):
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
        configurations = {  # read first: one that cannot be read must leave the log as it was
            e.index: Configuration.unpack(e.command[1:]) for e in found.new if e.command[0] == t.MEMBERSHIP
        }
        changed = False
        if found.cut is not None:
            self._abandon_callbacks(found.cut)
            log.deleteEntriesFrom(found.cut - log.first)
            changed = self.history.cut(found.cut)
        for entry in found.new:
            log.add(entry.command, entry.index, entry.term)
            if entry.index in configurations:
                self.history.append(entry.index, configurations[entry.index])
                changed = True
        if changed:
            self._configuration_changed()
        if min(m.commit, found.verified) > self.commit:
            self.raise_commit(min(m.commit, found.verified))
        self._when_durable(peer, t.Ack(self.current_term, m.seq, True, found.verified, m.prev_index))

    def _on_heartbeat(self, peer: str, m: t.Heartbeat, now: float) -> None:
        self._accept_leader(peer, m.term, now)
        last = self.log.last
        last_term, writable = self.log.term_at(last), self.room(0)
        ack = t.HeartbeatAck(self.current_term, m.seq, last, last_term, self.applied, self.eligible, writable)
        self.network.send(peer, ack)

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
                self._busy, self._pulls = True, 0
                self._restoring = (entry.index, entry.term, t.RestoreFile(file, sha256, size))
                self._begin_restore()
                return
            elif kind not in self.kinds:
                self.fail(
                    f"entry {entry.index} is of kind {kind}, which this version does not know: install a newer one"
                )
                return
            self._applied_entry(entry, result)

    def _on_removed(self, peer: str, m: t.Removed, now: float) -> None:
        leading = self.leadership
        if leading is not None:
            # A member that lags so far that it does not know of this server's addition takes nothing from it, for removal is
            # revocation. It must be brought up to date by another leader: any one, and should it trust none of them, without haste.
            lags = self.history.latest.member(peer) is not None and m.index <= self.commit
            if lags and leading.transfer_target is None and now - leading.since >= self.timing.quorum:
                leading.begin_transfer(None, now, self.timing.quorum)
            return
        self._removal_said = max(self._removal_said, (m.index, m.term))
        self._believe_removal(peer == self.leader_id or not self.election.sticky(now))

    def _believe_removal(self, trusted: bool) -> None:
        """Take a server's word that this one was removed, unless a leader knows better.

        Only a server that was a member can have been removed. While a leader may still speak to this server, another member's word
        may be an old one, from before this id was wiped and added again: it waits. A leader whose commit index covers the removal
        and that replicates to this server all the same has added it again since.
        """
        (index, term), latest = self._removal_said, self.history.latest
        if index == 0 or not trusted or self.leadership is not None:
            return
        self._removal_said = (0, 0)
        # In `removed`: its addition, after the removal, is still to come.
        member = latest.member(self.node_id) is not None or self.node_id in latest.removed
        # A later configuration here is that addition, or the uncommitted tail of a leader from before the removal.
        own = self.history.latest_index
        added_since = own >= index and self.log.term_at(max(own, self.log.first)) >= term
        if member and index > self.log.leader_commit and not added_since:
            self._mark_removed()
