# SPDX-License-Identifier: Apache-2.0
"""Snapshots and state files of a server: compaction, installing what the leader sends, restores (design.md 6, B4, B9).

A file is removed only when the record that makes it superfluous is durable and nobody is being sent it.
"""

from __future__ import annotations

import logging
import re

import msgpack

from holdfast.consensus import membership
from holdfast.consensus import types as t
from holdfast.consensus.install import Receiver, Sender
from holdfast.consensus.types import Snapshot
from holdfast.consensus.voting import FRUITLESS_PULLS, Voting

logger = logging.getLogger("holdfast.raft")

_UNCLAIMED = 600.0  # seconds that a restore file is kept while no entry names it: the leader counts on it and is about to log one
_STATE_SHARE = 8  # the log may grow to this part of the state until the next snapshot
_RETRY = 10.0  # seconds until a snapshot that could not be written is tried again
_FILE = re.compile(r"(snap|restore)-[0-9a-z-]{1,100}\.state")


class StateFiles(Voting):
    """The state files of a server."""

    def _compact(self) -> None:
        if self._saving or self._busy or self.applied <= (self.snapshot.index if self.snapshot else self.log.first):
            return
        if self.clock() < self._snapshot_after:
            return
        # A large state is written less often: else a snapshot costs a multiple of what was logged since the last one.
        enough = max(self.timing.compact_bytes, self.snapshot.size // _STATE_SHARE if self.snapshot else 0)
        if not self._snapshot_wanted and self.log.bytes_since_snapshot < enough:
            return
        self._saving, self._snapshot_wanted = True, False
        index, configuration = self.history.at(self.applied)
        self.machine.begin_snapshot(self.applied, self.log.term_at(self.applied), configuration, index)

    def snapshot_saved(self, snapshot: Snapshot | None) -> None:
        """The machine has written a durable snapshot (None: it could not; the log stays as it is)."""
        self._saving = False
        if snapshot is None:
            self._snapshot_after = self.clock() + _RETRY
            return
        if snapshot.index < self.log.first or (self.snapshot and snapshot.index <= self.snapshot.index):
            self._drop_file(snapshot.file)
            return
        # A large snapshot takes so long that under load the log would have gone on without who receives it, again and again.
        installing = self.leadership is not None and self.leadership.installing(self.clock())
        keep = self.timing.keep_bytes * (4 if installing else 1)
        self.log.snapshot_saved(snapshot, keep)  # logged before the old file may go
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
            for e in self.log[max(0, self.snapshot.index + 1 - self.log.first if self.snapshot else 0) :]
            if e.command[0] == t.RESTORE
        }
        now = self.clock()
        distributing = self.leadership.restore.file if self.leadership and self.leadership.restore else None
        for name in self.disk.list():
            if not name.startswith("restore-") or name in pending or name == distributing:
                self._unclaimed.pop(name, None)
            elif name in self._restored_files or self._unclaimed.setdefault(name, now) <= now - _UNCLAIMED:
                self._restored_files.discard(name)
                self._drop_file(name)
        self._drop_parts(self._receiver.part if self._receiver else "")

    def _drop_parts(self, kept: str) -> None:
        """Remove what has come of files that nobody sends any more (a restart may have left it)."""
        for name in self.disk.list():
            if name.startswith("part-") and name != kept:
                self.disk.remove(name)

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
            self._pulls = 0
            self.machine.begin_restore(*self._restoring)

    def loading(self) -> bool:
        """True while the state is being replaced by a file that this server holds."""
        return self._busy and (self._restoring is None or self._has(self._restoring[2].file))

    def restored(self, index: int) -> None:
        """The machine's state is that of the restore file."""
        assert self._restoring is not None
        self._restored_files.add(self._restoring[2].file)
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
        held = self._receiver.offset if self._receiver is not None and self._receiver.file == restore.file else 0
        self._pulls = self._pulls + 1 if held == self._pulled else 0
        self._pulled = held
        if self.leadership is not None and self._pulls > FRUITLESS_PULLS and self.leadership.transfer_target is None:
            # Nobody has it any more: they have applied it, and dropped it. One of them can lead, and has a snapshot to offer.
            self.leadership.begin_transfer(None, now, self.timing.quorum)
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
            self._garbage = [g for g in self._garbage if g[1] != m.file]  # somebody counts on it again
            self._restored_files.discard(m.file)
            self.network.send(peer, t.ChunkAck(m.file, m.size, True))
            return
        receiver = self._receiver
        if receiver is None or (receiver.file, receiver.sha256) != (m.file, m.sha256):
            wanted = self._restoring is not None and self._restoring[2].file == m.file
            if peer != self.leader_id and not wanted:
                return
            if receiver is not None and now - self._received_at < self.timing.quorum:
                return  # one file after the other: two that push each other out never come to their end
            receiver = Receiver(m.file, m.size, m.sha256, self.timing.sync_bytes)
            self._drop_parts(receiver.part)
            receiver.find(self.disk)
            held = self.disk.size(receiver.part) if receiver.resuming else 0
            if not self.room(0) or self.disk.free() + held < m.size:
                return
            self._receiver, self._received_at = receiver, now
        if receiver.resuming:
            self._resume_for = peer
            return
        before = receiver.offset
        try:
            whole = receiver.take(self.disk, m) and receiver.finish(self.disk)
        except OSError as error:  # a full disk: give the space back, the sender asks again
            logger.error("state file not received", extra={"fields": {"file": m.file, "error": error.strerror}})
            self._receiver = None
            for name in (receiver.part, receiver.file):  # renamed, but not known to be durable under its name
                self.disk.remove(name)
            return
        if whole:
            self._receiver = None
            self.network.send(peer, t.ChunkAck(m.file, m.size, True))
            if self._restoring is not None and self._restoring[2].file == m.file:
                self._begin_restore()
            return
        if receiver.offset > before:
            self._received_at = now
        self.network.send(peer, t.ChunkAck(m.file, receiver.offset, False))

    def _resume_part(self) -> None:
        """Read a piece of what an earlier process received of the file that is being sent; then say how far it is."""
        receiver = self._receiver
        if receiver is None or not receiver.resuming:
            return
        self._received_at = self.clock()
        try:
            receiver.resume(self.disk)
        except OSError as error:
            logger.error("part file not readable", extra={"fields": {"file": receiver.part, "error": error.strerror}})
            self._receiver = None
            self.disk.remove(receiver.part)
            return
        if not receiver.resuming:
            fields = {"file": receiver.file, "bytes": receiver.offset, "of": receiver.size}
            logger.info("transfer of a state file resumed", extra={"fields": fields})
            self.network.send(self._resume_for, t.ChunkAck(receiver.file, receiver.offset, False))

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
        if not _FILE.fullmatch(snapshot.file):
            raise ValueError("an install names a file that is no state file")
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
            self._busy, self._restoring = True, None
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
        self._restoring = None
        self._forget_callbacks(snapshot.index)
        if snapshot.index > self.commit:
            self.raise_commit(snapshot.index)
        log.snapshot_saved(snapshot, self.timing.keep_bytes)
        self._replace_snapshot(snapshot)
        self.machine.begin_install(snapshot)

    def installed(self, snapshot: Snapshot) -> None:
        """The machine's state is that of the snapshot."""
        self.applied = max(self.applied, snapshot.index)
        self._busy = False
        self.observer.state_changed()
