# SPDX-License-Identifier: Apache-2.0
"""What a leader does during one term: replication, commit, quorum check, reads, transfer, files to other servers.

One `Leadership` lives from the election to the end of the term; nothing of it survives into the next (B6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.consensus import quorum
from holdfast.consensus.install import Sender
from holdfast.consensus.reads import Lease, Reads
from holdfast.consensus.replication import Mode, Progress
from holdfast.consensus.types import (
    Ack,
    Append,
    ChunkAck,
    Entry,
    Heartbeat,
    HeartbeatAck,
    Install,
    Member,
    Removed,
    RestoreFile,
    Role,
    Snapshot,
)

if TYPE_CHECKING:
    from holdfast.consensus.server import Server


class Leadership:
    """The leader's duties. Times are the server's own clock in seconds."""

    def __init__(self, raft: Server, now: float) -> None:
        self.raft = raft
        self.term: int = raft.current_term
        self.since = now
        self.seq = 0
        self.noop_index = raft.log.last + 1  # stock code appends it next
        self.progress: dict[str, Progress] = {}
        self._members: dict[str, Member] = {}
        self.reads = Reads()
        self.lease = Lease(raft.timing.lease)
        self.transfer_target: str | None = None
        self._transfer_until = 0.0
        self._transfer_named = False
        self._transfer_sent = float("-inf")
        self._snapshots: dict[str, tuple[Snapshot, Sender, float]] = {}
        self._restores: dict[tuple[str, str], Sender] = {}
        self.restore: RestoreFile | None = None
        self.sync_members(now)

    @property
    def ready(self) -> bool:
        """True once this term's no-op is applied: the state is complete, requests may be served (Raft §8)."""
        return bool(self.raft.applied >= self.noop_index)

    def sync_members(self, now: float) -> None:
        """The configuration changed: start or stop following servers."""
        raft = self.raft
        wanted = {m.node_id for m in raft.history.latest.members} - {raft.node_id}
        for gone in sorted(self.progress.keys() - wanted):
            del self.progress[gone]
            self._snapshots.pop(gone, None)
            for key in [k for k in self._restores if k[0] == gone]:
                del self._restores[key]
        for new in sorted(wanted - self.progress.keys()):
            self.progress[new] = Progress(raft.log.last, now)
        before, self._members = self._members, {m.node_id: m for m in raft.history.latest.members}
        for peer in sorted(self.progress.keys() & before.keys()):
            old, member = before[peer], self._members[peer]
            demoted = old.role is Role.VOTER and member.role is not Role.VOTER
            if demoted or old.address != member.address:  # it may have been wiped
                self.restart(peer, now)

    def restart(self, peer: str, now: float) -> None:
        """`peer` joined anew under its old id: what its earlier self acknowledged, or said and is still under way, counts no more."""
        self._next_seq(now)
        self.progress[peer] = Progress(self.raft.log.last, now)
        self.progress[peer].from_seq = self.seq
        self._snapshots.pop(peer, None)
        for (other, _), sender in self._restores.items():
            if other == peer:
                sender.complete = False
                sender.lost()

    # --- every step ---

    def has_quorum(self, now: float) -> bool:
        """True while a majority has answered recently (check quorum, dissertation §6.2)."""
        limit = self.raft.timing.quorum
        alive = {peer for peer, p in self.progress.items() if now - p.acked_at < limit}
        return quorum.reached(self.raft.history.latest.voters, alive | {self.raft.node_id})

    def change_refusal(self, voters: frozenset[str], now: float) -> str | None:
        """Why a change to these voters could not be committed, or None: a majority of them must have answered lately.

        Once it is appended such a change is in force: the leader steps down, and nobody can lead until a server is back (etcd's
        strict reconfiguration check).
        """
        limit = self.raft.timing.heartbeat * 3
        here = {peer for peer, p in self.progress.items() if p.reachable(now, limit)} | {self.raft.node_id}
        if quorum.reached(voters, here):
            return None
        gone = ", ".join(sorted(voters - here))
        reach = f"only {len(voters & here)} of {len(voters)} voters would be reachable"
        return f"{reach}: bring {gone} back, or remove it first"

    def advance_commit(self) -> None:
        """Raise the commit index as far as a majority is durable."""
        raft = self.raft
        matched = {peer: p.match for peer, p in self.progress.items()}
        matched[raft.node_id] = raft.log.durable_index
        commit = quorum.commit_index(matched, raft.history.latest.voters, raft.commit, self.term, raft.log.term_at)
        if commit > raft.commit:
            before = raft.commit
            raft.raise_commit(commit)
            if before < raft.history.latest_index <= commit:
                self._tell_removed()

    def _tell_removed(self) -> None:
        latest = self.raft.history.latest
        for node_id in latest.removed:
            if latest.member(node_id) is None:
                self.raft.network.send(node_id, Removed(self.raft.history.latest_index, self.term))

    def replicate(self, now: float) -> None:
        """Send everything that is due."""
        raft = self.raft
        round_started = False
        if self.reads.wants_round and raft.commit >= self.noop_index:
            self._next_seq(now)
            self.reads.start(self.seq, raft.commit)
            round_started = True
        beat = False
        for peer, progress in self.progress.items():
            if round_started or now - progress.heartbeat_at >= raft.timing.heartbeat:
                if not round_started and not beat:
                    self._next_seq(now)
                    beat = True
                progress.heartbeat_at = now
                raft.network.send(peer, Heartbeat(self.term, self.seq))
            if progress.mode is Mode.SNAPSHOT:
                self._send_snapshot(peer, progress, now)
            else:
                self._send_entries(peer, progress, now)
        for (peer, _), sender in self._restores.items():
            for chunk in sender.due(raft.disk, now, raft.timing):
                raft.network.send(peer, chunk)
        self._pump_transfer(now)
        self.confirm_reads()

    def _next_seq(self, now: float) -> None:
        self.seq += 1
        self.lease.sent(self.seq, now)

    def may_read(self, now: float) -> bool:
        """True while the lease covers reads: everything that may have been acknowledged is in the commit index."""
        return self.lease.valid(now) and self.raft.commit >= self.noop_index

    def confirm_reads(self) -> None:
        """Release reads whose round a majority has confirmed, and prolong the lease."""
        if self.lease.duration:
            answered = {peer: p.acked_seq for peer, p in self.progress.items()}
            answered[self.raft.node_id] = self.seq
            self.lease.confirm(quorum.nth(self.raft.history.latest.voters, answered))
        needed = self.reads.round_seq
        if needed is not None:
            confirmed = {peer for peer, p in self.progress.items() if p.acked_seq >= needed}
            if quorum.reached(self.raft.history.latest.voters, confirmed | {self.raft.node_id}):
                self.reads.confirm()
        self.reads.release(self.raft.applied)

    def _send_entries(self, peer: str, progress: Progress, now: float) -> None:
        raft = self.raft
        log = raft.log
        while progress.due(log.last, now, raft.timing):
            if progress.next <= log.first:
                self._start_snapshot(peer, progress)
                return
            entries = log.slice(progress.next, raft.timing.max_batch) if progress.next <= log.last else []
            prev = progress.next - 1
            self._append(peer, progress, entries, now)
            progress.sent(prev + len(entries), now)
        if progress.commit_due(raft.commit, log.last, now, raft.timing):
            self._append(peer, progress, [], now)

    def _append(self, peer: str, progress: Progress, entries: list[Entry], now: float) -> None:
        raft, prev = self.raft, progress.next - 1
        raft.network.send(peer, Append(self.term, self.seq, prev, raft.log.term_at(prev), raft.commit, entries))
        progress.commit_sent = raft.commit
        progress.appended_at = now

    # --- files ---

    def _start_snapshot(self, peer: str, progress: Progress) -> None:
        snapshot = self.raft.snapshot
        if snapshot is None:
            self.raft.fail("the log was compacted but there is no snapshot to send")
            return
        progress.mode = Mode.SNAPSHOT
        current = self._snapshots.get(peer)
        if current is None or current[0] is not snapshot:
            sender = Sender(snapshot.file, snapshot.size, snapshot.sha256)
            self._snapshots[peer] = (snapshot, sender, float("-inf"))

    def offer_snapshot(self, peer: str) -> None:
        """`peer` cannot go on without the snapshot, whatever its log says."""
        progress = self.progress.get(peer)
        if progress is not None and self.raft.snapshot is not None and progress.mode is not Mode.SNAPSHOT:
            self._start_snapshot(peer, progress)

    def _send_snapshot(self, peer: str, progress: Progress, now: float) -> None:
        raft = self.raft
        if raft.snapshot is not self._snapshots[peer][0] and not self._snapshots[peer][1].begun:
            self._start_snapshot(peer, progress)  # it was away, and a newer one has been made since
        snapshot, sender, asked = self._snapshots[peer]
        if sender.acked == 0 and snapshot is not raft.snapshot:  # nothing is lost by sending a newer one
            self._start_snapshot(peer, progress)
            return
        if sender.complete:
            if now - asked >= raft.timing.resend * 2:
                self._snapshots[peer] = (snapshot, sender, now)
                raft.network.send(peer, Install(self.term, self.seq, snapshot.pack()))
            return
        for chunk in sender.due(raft.disk, now, raft.timing):
            raft.network.send(peer, chunk)

    def distribute(self, restore: RestoreFile) -> None:
        """Copy a restore file, which this server holds, to every member."""
        self.restore = restore
        for peer in self.progress:
            self._restores[(peer, restore.file)] = Sender(restore.file, restore.size, restore.sha256)

    def restore_held(self) -> bool:
        """True when a majority of voters holds the restore file, verified and durable."""
        if self.restore is None:
            return False
        name = self.restore.file
        holders = {peer for (peer, file), sender in self._restores.items() if file == name and sender.complete}
        return quorum.reached(self.raft.history.latest.voters, holders | {self.raft.node_id})

    def restore_progress(self) -> int:
        """Bytes that the slowest member of the fastest majority holds."""
        acked = sorted((max(0, s.acked) for s in self._restores.values()), reverse=True)
        needed = quorum.majority(self.raft.history.latest.voters) - 1
        if needed == 0 or len(acked) < needed:
            return self.restore.size if self.restore and needed == 0 else 0
        return acked[needed - 1]

    def end_restore(self) -> None:
        """The restore is over, one way or the other; who still lacks the file gets the next snapshot."""
        self.restore = None
        self._restores.clear()

    def installing(self, now: float) -> bool:
        """True while a server that is there is being sent a snapshot: it will need what was logged since."""
        limit = self.raft.timing.quorum
        return any(now - self.progress[peer].acked_at < limit for peer in self._snapshots if peer in self.progress)

    def files_in_use(self) -> set[str]:
        """Names of files that are being sent."""
        names = {file for _, file in self._restores}
        return names | {snapshot.file for snapshot, _, _ in self._snapshots.values()}

    # --- answers ---

    def on_ack(self, peer: str, ack: Ack, now: float) -> None:
        """An answer of this term to an Append or Install."""
        progress = self.progress.get(peer)
        if progress is None or ack.seq < progress.from_seq:
            return
        progress.seen(now, min(ack.seq, self.seq))
        if ack.ok:
            if progress.mode is Mode.SNAPSHOT:
                snapshot = self._snapshots[peer][0]
                if ack.index < snapshot.index:
                    return
                del self._snapshots[peer]
            progress.on_match(min(ack.index, self.raft.log.last), now)
        elif ack.prev <= self.raft.log.last:  # nothing beyond was ever sent
            progress.on_reject(ack.prev, ack.index, now)

    def on_heartbeat_ack(self, peer: str, ack: HeartbeatAck, now: float) -> None:
        """An answer of this term to a Heartbeat."""
        progress = self.progress.get(peer)
        if progress is None or ack.seq < progress.from_seq:
            return
        progress.seen(now, min(ack.seq, self.seq))
        progress.last_index, progress.last_term = ack.last_index, ack.last_term
        progress.eligible, progress.writable = ack.eligible, ack.writable
        progress.on_applied(ack.applied, self.raft.commit, now)
        progress.commit_sent = min(progress.commit_sent, ack.applied)  # what told it the commit index may be lost

    def on_chunk_ack(self, peer: str, ack: ChunkAck, now: float) -> None:
        """A server said how far it is with a file."""
        current = self._snapshots.get(peer)
        if current is not None and current[1].file == ack.file:
            if ack.offset == 0 and current[1].acked > 0 and current[1].sent >= current[1].size:
                self.raft.request_snapshot()  # all of it was sent and thrown away: the file here may be damaged
            current[1].on_ack(ack, now)
            if not ack.complete and current[1].complete:
                current[1].complete = False  # it lost the file again
        sender = self._restores.get((peer, ack.file))
        if sender is not None:
            sender.on_ack(ack, now)

    def lost_connection(self, peer: str, now: float) -> None:
        """The connection to `peer` broke."""
        progress = self.progress.get(peer)
        if progress is not None:
            progress.lost(now)
        if peer in self._snapshots:
            self._snapshots[peer][1].lost()
        for (other, _), sender in self._restores.items():
            if other == peer:
                sender.lost()

    # --- transfer ---

    def begin_transfer(self, target: str | None, now: float, timeout: float) -> str | None:
        """Stop taking proposals and hand over once the target has everything. Returns the target, None if nobody can lead.

        A target that falls silent is given up (dissertation §3.10), for another one unless it was asked for by name.
        """
        self._transfer_until = now + timeout
        self._transfer_named = target is not None
        self._aim(target, now)
        return self.transfer_target

    def _aim(self, target: str | None, now: float) -> None:
        # Who waits for a state looks for one that has it, however much of the log that one lacks, and not for another that waits.
        state_first = self.raft.applied < self.raft.commit
        candidates = [
            ((p.applied, p.match) if state_first else (p.match, p.applied), self.raft.random.random(), peer)
            for peer, p in self.progress.items()
            if (member := self.raft.history.latest.member(peer)) is not None
            and member.role is Role.VOTER
            and p.eligible
            and p.answered
            and now - p.acked_at < self.raft.timing.quorum
            and (target is None or peer == target)
        ]
        self.transfer_target = max(candidates)[2] if candidates else None
        self._transfer_sent = float("-inf")

    def _pump_transfer(self, now: float) -> None:
        target = self.transfer_target
        if target is None:
            return
        progress = self.progress.get(target)
        if progress is None or now >= self._transfer_until:
            self.transfer_target = None
            return
        if now - progress.acked_at >= self.raft.timing.quorum:
            self.transfer_target = None
            if not self._transfer_named:
                self._aim(None, now)
            return
        raft = self.raft
        if progress.match == raft.log.last and now - self._transfer_sent >= raft.timing.resend * 2:
            self._transfer_sent = now
            self.lease.end()
            raft.stock_match[raft.peer(target)] = progress.match
            raft.transfer_to(target)

    def end(self) -> None:
        """The term is over for this leader."""
        self.reads.fail()
