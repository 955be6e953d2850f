# SPDX-License-Identifier: Apache-2.0
"""The write-ahead log on disk: records, segments, recovery. Repairs faults B4, B11 and B12.

A segment is `wal-<sequence>.seg`, its bytes reserved when it is created; it is made of a spare file, which is a used segment or was
made ahead of time (`prepare`), so that the flush that begins it need not wait for room. Records follow each other:
`u32 length | u32 crc | u8 type | payload`, little-endian; the CRC is seeded with the segment's sequence number, so what is left
in a recycled file never looks like a record. The first record of a segment is its HEAD and repeats all that older segments say
besides entries, which is why they can go once a snapshot covers their entries. Every flush begins with a FLUSH record that
names the offset up to which the segment was durable before: a bad record at or after the last such offset is a torn tail
and is cut; before it, it is damage, and the server refuses to start.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgpack

from holdfast.consensus.ports import Disk
from holdfast.consensus.types import Entry, Snapshot

FORMAT = 1
HEAD, ENTRY, META, COMMIT, CUT, SNAP, RESET, REMOVED, FLUSH, LEADER_COMMIT = KINDS = range(1, 11)
RECORD = struct.Struct("<IIB")
ENTRY_HEAD = struct.Struct("<QQ")
U64 = struct.Struct("<Q")
MAGIC = b"\x9dHFflush"
ENTRY_EXTRA = RECORD.size + ENTRY_HEAD.size  # bytes that an entry takes beside its command
_FLUSH_SIZE = RECORD.size + len(MAGIC) + U64.size
SPARE = "spare-"
SPARES = 4  # used segments kept for the next ones: as many as one compaction frees, so that none is ever made anew
NEXT = SPARE + "next.seg"
MARGIN = 256 * 1024 * 1024  # free bytes that a snapshot may be about to take
SLACK = 64 * 1024  # kept free at the end of a segment for terms and votes when the disk is full


def segment_name(sequence: int) -> str:
    """File name of a segment."""
    return f"wal-{sequence:016d}.seg"


@dataclass(slots=True)
class Head:
    """Everything a segment's first record says: the state of the log just before the segment."""

    cluster_id: str
    node_id: str
    prev_index: int = 1
    prev_term: int = 0
    term: int = 0
    voted_for: str | None = None
    commit: int = 1
    snapshot: Snapshot | None = None
    removed: bool = False
    leader_commit: int = 1

    def pack(self, sequence: int) -> bytes:
        """Payload of a HEAD record."""
        snapshot = self.snapshot.pack() if self.snapshot else None
        packed: bytes = msgpack.packb(
            [
                FORMAT,
                sequence,
                self.cluster_id,
                self.node_id,
                self.prev_index,
                self.prev_term,
                self.term,
                self.voted_for,
                self.commit,
                snapshot,
                self.removed,
                self.leader_commit,
            ]
        )
        return packed

    def copy(self) -> Head:
        """An independent copy."""
        return Head(
            self.cluster_id,
            self.node_id,
            self.prev_index,
            self.prev_term,
            self.term,
            self.voted_for,
            self.commit,
            self.snapshot,
            self.removed,
            self.leader_commit,
        )


@dataclass(slots=True)
class Batch:
    """What one flush writes. `head` is the state before it, should it need a new segment; `lsn` names the last record."""

    records: list[tuple[int, bytes]]
    size: int
    lsn: int
    head: Head
    drop_below: int


@dataclass(slots=True)
class Segment:
    """One segment file: `prev_index` is the last index before it, `end` where the next flush goes, `size` its length."""

    sequence: int
    prev_index: int
    end: int
    size: int


class Wal:
    """Buffers records on the event loop (`append`, `take`) and writes them in the journal's thread (`write`).

    `append` and `take` touch only the buffer, `write` only segments and disk: the two sides share nothing but batches
    (`capacity` peeks at the current segment's end, which may be one flush old, and makes a spare under the same lock as `prepare`).
    """

    def __init__(self, disk: Disk, head: Head, segments: list[Segment], segment_size: int) -> None:
        self._disk = disk
        self._head = head  # state after every record buffered so far
        self._taken = head.copy()  # state after every batch taken so far
        self._buffer: list[tuple[int, bytes]] = []
        self._buffered = 0
        self._under_way = (
            0  # bytes taken and not written yet; one batch is out at a time, so one side at a time changes it
        )
        self._drop_below = 0
        self.lsn = 0
        self._segments = segments
        self._segment_size = segment_size
        self._spare_lock = threading.Lock()
        self._prepared = 0  # the segment after which a spare is known to be there

    # --- the event loop's side ---

    @property
    def pending(self) -> bool:
        """True when there are records to flush."""
        return bool(self._buffer)

    def append(self, kind: int, payload: bytes) -> int:
        """Buffer a record; returns its log sequence number."""
        self._buffer.append((kind, payload))
        self._buffered += len(payload) + RECORD.size
        self.lsn += 1
        return self.lsn

    def entry(self, entry: Entry) -> int:
        """Buffer an entry."""
        self._head.prev_index, self._head.prev_term = entry.index, entry.term
        return self.append(ENTRY, ENTRY_HEAD.pack(entry.index, entry.term) + entry.command)

    def meta(self, term: int, voted_for: str | None) -> int:
        """Buffer the current term and vote."""
        self._head.term, self._head.voted_for = term, voted_for
        return self.append(META, msgpack.packb([term, voted_for]))

    def commit(self, index: int) -> int:
        """Buffer the commit index (a hint after a restart; never needed for safety)."""
        self._head.commit = index
        return self.append(COMMIT, U64.pack(index))

    def leader_commit(self, index: int) -> int:
        """Buffer the commit index of a leader, which may lie beyond this log."""
        self._head.leader_commit = index
        return self.append(LEADER_COMMIT, U64.pack(index))

    def cut(self, index: int, prev_term: int) -> int:
        """Buffer "entries from `index` on are gone"; `prev_term` is the term of the entry before."""
        self._head.prev_index, self._head.prev_term = index - 1, prev_term
        return self.append(CUT, ENTRY_HEAD.pack(index, prev_term))

    def snap(self, snapshot: Snapshot, keep_from: int) -> int:
        """Buffer "this snapshot covers the log so far"; segments whose entries are all below `keep_from` may go."""
        self._head.snapshot = snapshot
        self._drop_below = keep_from
        return self.append(SNAP, msgpack.packb(snapshot.pack()))

    def reset(self, snapshot: Snapshot) -> int:
        """Buffer "the log is replaced by this snapshot"."""
        head = self._head
        head.snapshot, head.prev_index, head.prev_term = snapshot, snapshot.index, snapshot.term
        head.commit = max(head.commit, snapshot.index)
        self._drop_below = snapshot.index
        return self.append(RESET, msgpack.packb(snapshot.pack()))

    def mark_removed(self) -> int:
        """Buffer "this server was removed from its cluster"."""
        self._head.removed = True
        return self.append(REMOVED, b"")

    def take(self) -> Batch:
        """Everything buffered, to be given to `write`."""
        batch = Batch(self._buffer, self._buffered, self.lsn, self._taken, self._drop_below)
        self._under_way += self._buffered
        self._buffer, self._buffered = [], 0
        self._taken = self._head.copy()
        return batch

    # --- the journal thread's side ---

    def write(self, batch: Batch) -> None:
        """Write and sync one batch. Any OSError is final: the caller must stop the server and not try again (B12)."""
        segment = self._segments[-1]
        if segment.end + batch.size + _FLUSH_SIZE > segment.size:
            segment = self._roll(batch)
        parts = [record(segment.sequence, FLUSH, MAGIC + U64.pack(segment.end))]
        parts.extend(record(segment.sequence, kind, payload) for kind, payload in batch.records)
        data = b"".join(parts)
        name = segment_name(segment.sequence)
        self._disk.write(name, segment.end, data)
        self._disk.sync(name)
        segment.end += len(data)
        self._under_way -= batch.size
        if batch.drop_below:
            self._drop(batch.drop_below)

    def capacity(self, free: int) -> int:
        """Bytes that can surely be logged soon, when the disk has `free` bytes above its reserve.

        While much is free, new segments count (half of each: a batch that does not fit begins the next one). Else only what is
        allocated does, for a snapshot may take the rest at any moment: this segment and a spare one, which is made here.
        """
        segment, size = self._segments[-1], self._segment_size
        left = max(0, segment.size - segment.end - self._buffered - self._under_way - SLACK)
        if free >= MARGIN + size:
            return left + (free - MARGIN) // size * (size // 2)
        if not self._spare_lock.acquire(blocking=False):  # one is being made: ask again in a moment
            return left
        try:
            if not self._spare(size):
                if free < size:
                    return left
                self._disk.create(NEXT, size)
        except OSError:  # somebody else has taken the room: nothing is promised then
            return left
        finally:
            self._spare_lock.release()
        return max(left, size // 2)

    def prepare(self) -> None:
        """Make a spare ahead of time, when there is none and plenty of room; the journal's thread calls it between flushes."""
        segment, size = self._segments[-1], self._segment_size
        if segment.sequence == self._prepared or segment.end < segment.size // 2:
            return
        with self._spare_lock, contextlib.suppress(OSError):  # the flush that needs the room will say what is wrong
            if not self._spare(size):
                if self._disk.free() < MARGIN + size:
                    return
                self._disk.create(NEXT, size)
            self._prepared = segment.sequence

    def _spare(self, size: int) -> str | None:
        """The name of a spare of at least `size` bytes."""
        return next((n for n in self._disk.list() if n.startswith(SPARE) and self._disk.size(n) >= size), None)

    def _roll(self, batch: Batch) -> Segment:
        sequence = self._segments[-1].sequence + 1
        name = segment_name(sequence)
        size = max(self._segment_size, batch.size + 4096 + SLACK)
        head = record(sequence, HEAD, batch.head.pack(sequence))
        with self._spare_lock:
            spare = self._spare(size)
            if spare is not None:
                self._disk.rename(spare, name)
            else:
                self._disk.create(name, size)
        self._disk.write(name, 0, head)
        self._disk.sync(name)
        self._disk.sync_dir()
        segment = Segment(sequence, batch.head.prev_index, len(head), size)
        self._segments.append(segment)
        return segment

    def _drop(self, index: int) -> None:
        """Recycle segments whose entries are all below `index` (the next segment then starts at or below it)."""
        changed = False
        kept = SPARES if self._disk.free() >= MARGIN else 1  # a nearly full disk needs the room for a snapshot
        while len(self._segments) > 1 and self._segments[1].prev_index < index:
            gone = self._segments.pop(0)
            old = segment_name(gone.sequence)
            spares = sum(n.startswith(SPARE) for n in self._disk.list())
            if spares >= kept or gone.size != self._segment_size:
                self._disk.remove(old)
            else:
                self._disk.rename(old, SPARE + old)
            changed = True
        if changed:
            self._disk.sync_dir()


def record(sequence: int, kind: int, payload: bytes) -> bytes:
    """A framed record of segment `sequence`."""
    crc = zlib.crc32(payload, zlib.crc32(bytes([kind]), sequence & 0xFFFFFFFF))
    return RECORD.pack(len(payload), crc, kind) + payload


def create(
    disk: Disk, cluster_id: str, node_id: str, segment_size: int, entries: Sequence[Entry] = (), term: int = 0
) -> None:
    """A new durable log in an empty directory, complete or not there at all; read it with `recover`."""
    name = segment_name(1)
    parts = [record(1, HEAD, Head(cluster_id, node_id).pack(1)), record(1, META, msgpack.packb([term, None]))]
    parts += [record(1, ENTRY, ENTRY_HEAD.pack(e.index, e.term) + e.command) for e in entries]
    disk.create("new-" + name, segment_size)
    disk.write("new-" + name, 0, b"".join(parts))
    disk.sync("new-" + name)
    disk.rename("new-" + name, name)
    disk.sync_dir()


def exists(disk: Disk) -> bool:
    """True when there is a log in the directory."""
    return any(name.startswith("wal-") for name in disk.list())
