# SPDX-License-Identifier: Apache-2.0
"""Raft's view of the log: entries in memory, every change recorded in the write-ahead log, and how far it is durable.

Implements pysyncobj's Journal interface (its camelCase methods) over `wal.Wal`. Position 0 is a sentinel: the last entry that a
snapshot covers (or index 1 of a new cluster). Nothing here waits for the disk: `RaftLog.wal.take()` hands a batch to whoever
flushes, and `durable(lsn)` is told when it is on disk.
"""

from __future__ import annotations

from collections import deque
from typing import overload

from holdfast.consensus.seam import JournalBase
from holdfast.consensus.types import Entry, Recovered, Snapshot
from holdfast.consensus.wal import Batch, Wal


class RaftLog(JournalBase):
    """The log of one server."""

    def __init__(self, wal: Wal, recovered: Recovered) -> None:
        self.wal = wal
        self._entries: list[Entry] = recovered.entries
        self._term = recovered.term
        self._voted_for = recovered.voted_for
        self._commit = recovered.commit
        self._commit_logged = recovered.commit
        self.leader_commit = self._leader_commit_logged = recovered.leader_commit
        self.bytes = sum(len(entry.command) for entry in self._entries)
        self.bytes_since_snapshot = self.bytes
        self.durable_index = self._entries[-1].index
        self.durable_lsn = wal.lsn
        self._flushes: deque[list[int]] = deque()  # [lsn, last index] of each batch under way

    # --- pysyncobj's interface ---

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append one entry."""
        entry = Entry(command, idx, term)
        self._entries.append(entry)
        self.wal.entry(entry)
        self.bytes += len(command)
        self.bytes_since_snapshot += len(command)

    def clear(self) -> None:
        """Not used: the log is replaced by `reset` only."""
        raise AssertionError("the log is never cleared")

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Cut the log from position `entryFrom` on."""
        gone = self._entries[entryFrom:]
        if not gone:
            return
        del self._entries[entryFrom:]
        last = self._entries[-1]
        self.wal.cut(gone[0].index, last.term)
        self.durable_index = min(self.durable_index, last.index)
        for flush in self._flushes:
            flush[1] = min(flush[1], last.index)
        size = sum(len(entry.command) for entry in gone)
        self.bytes -= size
        self.bytes_since_snapshot = max(0, self.bytes_since_snapshot - size)

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Forget entries before position `entryTo`, which becomes the sentinel (memory only)."""
        self.bytes -= sum(len(entry.command) for entry in self._entries[:entryTo])
        del self._entries[:entryTo]

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, item: int) -> Entry: ...

    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...

    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        return self._entries[item]

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Note the commit index; it reaches the disk with the next flush or `log_commit`."""
        self._commit = raftCommitIndex

    def getRaftCommitIndex(self) -> int:
        """The commit index as recovered or noted last."""
        return self._commit

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Record term and vote."""
        if (term, votedForNodeId) != (self._term, self._voted_for):
            self._term, self._voted_for = term, votedForNodeId
            self.wal.meta(term, votedForNodeId)

    def getCurrentTerm(self) -> int:
        """The recorded term."""
        return self._term

    def getVotedForNodeId(self) -> str | None:
        """The recorded vote in the current term."""
        return self._voted_for

    def onOneSecondTimer(self) -> None:
        """Nothing: time plays no part here."""

    def _destroy(self) -> None:
        """Nothing: files belong to the disk port."""

    # --- ours ---

    @property
    def first(self) -> int:
        """Index of the sentinel."""
        return self._entries[0].index

    @property
    def last(self) -> int:
        """Index of the newest entry."""
        return self._entries[-1].index

    def term_at(self, index: int) -> int:
        """Term of the entry at `index`, first <= index <= last."""
        return self._entries[index - self._entries[0].index].term

    def get(self, index: int) -> Entry:
        """The entry at `index`, first <= index <= last."""
        return self._entries[index - self._entries[0].index]

    def slice(self, start: int, max_bytes: int) -> list[Entry]:
        """Entries from `start` on, at least one, until `max_bytes` are reached."""
        position = start - self._entries[0].index
        taken, size = position, 0
        while taken < len(self._entries):
            size += len(self._entries[taken].command)
            if size > max_bytes and taken > position:
                break
            taken += 1
        return self._entries[position:taken]

    def reset(self, snapshot: Snapshot) -> None:
        """Replace the whole log by a snapshot that was installed."""
        self._entries = [Entry(b"\x01", snapshot.index, snapshot.term)]
        self.bytes = self.bytes_since_snapshot = 0
        self.durable_index = snapshot.index
        for flush in self._flushes:
            flush[1] = min(flush[1], snapshot.index)
        self._commit = self._commit_logged = max(self._commit, snapshot.index)
        self.wal.reset(snapshot)

    def snapshot_saved(self, snapshot: Snapshot, keep_bytes: int) -> None:
        """A snapshot is durable: forget entries it covers, but for a tail of `keep_bytes` for servers that lag."""
        position = snapshot.index - self.first
        kept = 0
        while position > 0 and kept + len(self._entries[position].command) <= keep_bytes:
            kept += len(self._entries[position].command)
            position -= 1
        self.bytes_since_snapshot = sum(len(e.command) for e in self._entries[snapshot.index - self.first + 1 :])
        if position > 0:
            self.deleteEntriesTo(position)
        self.wal.snap(snapshot, self.first + 1)

    @property
    def commit_unlogged(self) -> bool:
        """True when the commit index moved since it was last recorded."""
        return self._commit > self._commit_logged

    def take(self) -> Batch:
        """Everything to flush now."""
        if self.commit_unlogged:
            self._commit_logged = self._commit
            self.wal.commit(self._commit)
        if self.leader_commit > max(
            self.last, self._leader_commit_logged
        ):  # what the log says by itself needs no record
            self._leader_commit_logged = self.leader_commit
            self.wal.leader_commit(self.leader_commit)
        batch = self.wal.take()
        self._flushes.append([batch.lsn, self.last])
        return batch

    def durable(self, lsn: int) -> None:
        """Everything up to `lsn` is on disk."""
        while self._flushes and self._flushes[0][0] <= lsn:
            self.durable_index = max(self.durable_index, self._flushes.popleft()[1])
        self.durable_lsn = max(self.durable_lsn, lsn)
