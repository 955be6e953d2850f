# SPDX-License-Identifier: Apache-2.0
"""The write-ahead log on disk: records, segments, recovery. Repairs faults B4, B11 and B12.

A segment is `wal-<sequence>.seg`, its bytes reserved when it is created. Records follow each other:
`u32 length | u32 crc | u8 type | payload`, little-endian; the CRC is seeded with the segment's sequence number, so what is left
in a recycled file never looks like a record. The first record of a segment is its HEAD and repeats all that older segments say
besides entries, which is why they can go once a snapshot covers their entries. Every flush begins with a FLUSH record that
names the offset up to which the segment was durable before: a bad record at or after the last such offset is a torn tail
and is cut; before it, it is damage, and the server refuses to start.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack

from holdfast.consensus.ports import Disk
from holdfast.consensus.types import Entry, JournalError, Recovered, Snapshot

FORMAT = 1
HEAD, ENTRY, META, COMMIT, CUT, SNAP, RESET, REMOVED, FLUSH = range(1, 10)
_RECORD = struct.Struct("<IIB")
_ENTRY = struct.Struct("<QQ")
_U64 = struct.Struct("<Q")
_MAGIC = b"\x9dHFflush"
_FLUSH_SIZE = _RECORD.size + len(_MAGIC) + _U64.size
SPARE = "spare-"
_SEGMENT = re.compile(r"wal-[0-9]{16}\.seg")
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
class _Segment:
    sequence: int
    prev_index: int
    end: int
    size: int


@dataclass(slots=True)
class _Scan:
    """State of a recovery scan over all segments."""

    result: Recovered
    segments: list[_Segment] = field(default_factory=list)


class Wal:
    """Buffers records on the event loop (`append`, `take`) and writes them in the journal's thread (`write`).

    `append` and `take` touch only the buffer, `write` only segments and disk: the two sides share nothing but batches
    (`room` peeks at the current segment's end, which may be one flush old).
    """

    def __init__(self, disk: Disk, head: Head, segments: list[_Segment], segment_size: int) -> None:
        self._disk = disk
        self._head = head  # state after every record buffered so far
        self._taken = head.copy()  # state after every batch taken so far
        self._buffer: list[tuple[int, bytes]] = []
        self._buffered = 0
        self._drop_below = 0
        self.lsn = 0
        self._segments = segments
        self._segment_size = segment_size

    # --- the event loop's side ---

    @property
    def pending(self) -> bool:
        """True when there are records to flush."""
        return bool(self._buffer)

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait for a flush."""
        return self._buffered

    def append(self, kind: int, payload: bytes) -> int:
        """Buffer a record; returns its log sequence number."""
        self._buffer.append((kind, payload))
        self._buffered += len(payload) + _RECORD.size
        self.lsn += 1
        return self.lsn

    def entry(self, entry: Entry) -> int:
        """Buffer an entry."""
        self._head.prev_index, self._head.prev_term = entry.index, entry.term
        return self.append(ENTRY, _ENTRY.pack(entry.index, entry.term) + entry.command)

    def meta(self, term: int, voted_for: str | None) -> int:
        """Buffer the current term and vote."""
        self._head.term, self._head.voted_for = term, voted_for
        return self.append(META, msgpack.packb([term, voted_for]))

    def commit(self, index: int) -> int:
        """Buffer the commit index (a hint after a restart; never needed for safety)."""
        self._head.commit = index
        return self.append(COMMIT, _U64.pack(index))

    def cut(self, index: int, prev_term: int) -> int:
        """Buffer "entries from `index` on are gone"; `prev_term` is the term of the entry before."""
        self._head.prev_index, self._head.prev_term = index - 1, prev_term
        return self.append(CUT, _ENTRY.pack(index, prev_term))

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
        self._buffer, self._buffered = [], 0
        self._taken = self._head.copy()
        return batch

    # --- the journal thread's side ---

    def write(self, batch: Batch) -> None:
        """Write and sync one batch. Any OSError is final: the caller must stop the server and not try again (B12)."""
        segment = self._segments[-1]
        if segment.end + batch.size + _FLUSH_SIZE > segment.size:
            segment = self._roll(batch)
        parts = [_record(segment.sequence, FLUSH, _MAGIC + _U64.pack(segment.end))]
        parts.extend(_record(segment.sequence, kind, payload) for kind, payload in batch.records)
        data = b"".join(parts)
        name = segment_name(segment.sequence)
        self._disk.write(name, segment.end, data)
        self._disk.sync(name)
        segment.end += len(data)
        if batch.drop_below:
            self._drop(batch.drop_below)

    def room(self, size: int, reserve: int) -> bool:
        """True when `size` more bytes can be logged without using up the last `reserve` bytes of the disk."""
        segment = self._segments[-1]
        if segment.end + self._buffered + size + _FLUSH_SIZE + SLACK <= segment.size:
            return True
        return self._disk.free() - self._segment_size - size >= reserve

    def capacity(self, free: int) -> int:
        """Bytes that can surely be logged soon, when the disk has `free` bytes above its reserve.

        While much is free, new segments count (half of each: a batch that does not fit begins the next one). Else only what is
        allocated does, for a snapshot may take the rest at any moment: this segment and a spare one, which is made here.
        """
        segment, size = self._segments[-1], self._segment_size
        left = max(0, segment.size - segment.end - self._buffered - SLACK)
        if free >= MARGIN + size:
            return left + (free - MARGIN) // size * (size // 2)
        spare = any(self._disk.size(n) >= size for n in self._disk.list() if n.startswith(SPARE))
        if not spare and free >= size:
            try:
                self._disk.create(SPARE + "next.seg", size)
                spare = True
            except OSError:  # somebody else has taken the room: nothing is promised then
                return left
        return max(left, size // 2) if spare else left

    def _roll(self, batch: Batch) -> _Segment:
        sequence = self._segments[-1].sequence + 1
        name = segment_name(sequence)
        size = max(self._segment_size, batch.size + 4096 + SLACK)
        head = _record(sequence, HEAD, batch.head.pack(sequence))
        spares = [n for n in self._disk.list() if n.startswith(SPARE)]
        if spares and self._disk.size(spares[0]) >= size:
            self._disk.rename(spares[0], name)
        else:
            self._disk.create(name, size)
        self._disk.write(name, 0, head)
        self._disk.sync(name)
        self._disk.sync_dir()
        segment = _Segment(sequence, batch.head.prev_index, len(head), size)
        self._segments.append(segment)
        return segment

    def _drop(self, index: int) -> None:
        """Recycle segments whose entries are all below `index` (the next segment then starts at or below it)."""
        changed = False
        while len(self._segments) > 1 and self._segments[1].prev_index < index:
            old = segment_name(self._segments.pop(0).sequence)
            if any(n.startswith(SPARE) for n in self._disk.list()):
                self._disk.remove(old)
            else:
                self._disk.rename(old, SPARE + old)
            changed = True
        if changed:
            self._disk.sync_dir()


def _record(sequence: int, kind: int, payload: bytes) -> bytes:
    crc = zlib.crc32(payload, zlib.crc32(bytes([kind]), sequence & 0xFFFFFFFF))
    return _RECORD.pack(len(payload), crc, kind) + payload


def create(
    disk: Disk, cluster_id: str, node_id: str, segment_size: int, entries: Sequence[Entry] = (), term: int = 0
) -> None:
    """A new durable log in an empty directory, complete or not there at all; read it with `recover`."""
    name = segment_name(1)
    parts = [_record(1, HEAD, Head(cluster_id, node_id).pack(1)), _record(1, META, msgpack.packb([term, None]))]
    parts += [_record(1, ENTRY, _ENTRY.pack(e.index, e.term) + e.command) for e in entries]
    disk.create("new-" + name, segment_size)
    disk.write("new-" + name, 0, b"".join(parts))
    disk.sync("new-" + name)
    disk.rename("new-" + name, name)
    disk.sync_dir()


def exists(disk: Disk) -> bool:
    """True when there is a log in the directory."""
    return any(name.startswith("wal-") for name in disk.list())


def recover(disk: Disk, segment_size: int) -> tuple[Wal, Recovered]:
    """Read the log back. A torn tail is cut; anything else that is wrong raises JournalError."""
    names = sorted(name for name in disk.list() if name.startswith("wal-"))
    for name in names:
        if not _SEGMENT.fullmatch(name):
            raise JournalError(f"{name} is not a journal file, but its name begins like one: move it elsewhere")
    scan = _Scan(Recovered([]))
    for name in list(names):
        data = disk.read(name)
        last = name == names[-1]
        if last and len(names) > 1 and not _has_head(name, data):
            # The segment was being created when the power went: nothing in it was ever durable. A flush in it would
            # prove the contrary, for the head is durable before the first one begins.
            if _durable_beyond(int(name[4:-4]), data, 0) is not None:
                raise JournalError(
                    f"{name}: offset 0 is damaged but entries after it were durable: the disk has lost data; "
                    "wipe this server and join it again"
                )
            disk.remove(name)
            disk.sync_dir()
            scan.result.warnings.append(f"{name}: removed, its creation had not finished")
            break
        _scan_segment(scan, name, data, last)
    result = scan.result
    if not result.entries:
        raise JournalError("the Raft journal has no segments: restore the directory, or wipe it and join again")
    _check(result)
    tail = result.entries[-1]
    head = Head(
        result.cluster_id,
        result.node_id,
        tail.index,
        tail.term,
        result.term,
        result.voted_for,
        result.commit,
        result.snapshot,
        result.removed,
    )
    _clear_tail(disk, scan.segments[-1])
    return Wal(disk, head, scan.segments, segment_size), result


def _clear_tail(disk: Disk, segment: _Segment) -> None:
    """Zero what a torn flush (or an earlier use of the file) left behind the end: it must never pass for a record later."""
    name = segment_name(segment.sequence)
    if any(disk.read(name, segment.end)):
        disk.write(name, segment.end, bytes(segment.size - segment.end))
        disk.sync(name)


def _has_head(name: str, data: bytes) -> bool:
    sequence = int(name[4:-4])
    first = next(_records(sequence, data), None)
    return first is not None and first[1] == HEAD


def _records(sequence: int, data: bytes) -> Iterator[tuple[int, int, memoryview, int]]:
    """(offset, type, payload, end) of every good record from the start; stops at the first that is not."""
    view = memoryview(data)
    offset = 0
    while offset + _RECORD.size <= len(data):
        length, crc, kind = _RECORD.unpack_from(data, offset)
        end = offset + _RECORD.size + length
        if not HEAD <= kind <= FLUSH or end > len(data):
            return
        payload = view[offset + _RECORD.size : end]
        if zlib.crc32(payload, zlib.crc32(bytes([kind]), sequence & 0xFFFFFFFF)) != crc:
            return
        yield offset, kind, payload, end
        offset = end


def _scan_segment(scan: _Scan, name: str, data: bytes, last: bool) -> None:
    sequence = int(name[4:-4])
    if scan.segments and sequence != scan.segments[-1].sequence + 1:
        raise JournalError(f"{name}: a segment before it is missing; restore it, or wipe this server and join it again")
    end, prev_index = 0, 1
    for offset, kind, payload, after in _records(sequence, data):
        try:
            if kind == HEAD:
                if offset:
                    break
                prev_index = _on_head(scan, name, payload)
            else:
                _apply(scan.result, kind, payload)
        except (ValueError, TypeError, struct.error, msgpack.UnpackException) as error:
            raise JournalError(f"{name}: offset {offset}: {error}; wipe this server and join it again") from None
        end = after
    if end == 0:
        raise JournalError(f"{name}: no readable header; wipe this server and join it again, or restore the file")
    damaged = _durable_beyond(sequence, data, end)
    if damaged is not None:
        raise JournalError(
            f"{name}: offset {end} is damaged but was durable up to offset {damaged}: the disk has lost data; "
            "wipe this server and join it again"
        )
    scan.segments.append(_Segment(sequence, prev_index, end, len(data)))


def _durable_beyond(sequence: int, data: bytes, end: int) -> int | None:
    """The durable offset that a FLUSH record after `end` names, if it lies beyond `end`: then `end` is damage, not a tear."""
    at = data.find(_MAGIC, end)
    while at >= 0:
        start = at - _RECORD.size
        if start >= end:
            first = next(_records(sequence, data[start : at + len(_MAGIC) + _U64.size]), None)
            if first is not None and first[1] == FLUSH:
                durable: int = _U64.unpack_from(data, at + len(_MAGIC))[0]
                if durable > end:
                    return durable
        at = data.find(_MAGIC, at + 1)
    return None


def _on_head(scan: _Scan, name: str, payload: memoryview) -> int:
    fields: list[Any] = msgpack.unpackb(payload)
    if fields[0] > FORMAT:
        raise JournalError(f"{name} was written by a newer version (format {fields[0]}): install that version")
    _, sequence, cluster_id, node_id, prev_index, prev_term, term, voted, commit, snapshot, removed = fields
    if segment_name(sequence) != name:
        raise JournalError(f"{name} says it is {segment_name(sequence)}: the files were mixed up; restore them")
    result = scan.result
    if not result.entries:
        result.entries.append(Entry(b"\x01", prev_index, prev_term))
        result.cluster_id, result.node_id = cluster_id, node_id
    elif (cluster_id, node_id) != (result.cluster_id, result.node_id):
        raise JournalError(f"{name} belongs to another server or cluster; restore the right files")
    elif result.entries[-1].index != prev_index or result.entries[-1].term != prev_term:
        raise JournalError(
            f"{name} continues after entry {prev_index}, but the segment before it ends with "
            f"{result.entries[-1].index}: entries are lost; wipe this server and join it again"
        )
    result.term, result.voted_for, result.commit = term, voted, max(commit, result.commit)
    result.snapshot = Snapshot.unpack(snapshot) if snapshot else None
    result.removed = removed
    return int(prev_index)


def _apply(result: Recovered, kind: int, payload: memoryview) -> None:
    entries = result.entries
    if kind == ENTRY:
        index, term = _ENTRY.unpack_from(payload)
        if index != entries[-1].index + 1:
            raise ValueError(f"entry {index} follows entry {entries[-1].index}")
        entries.append(Entry(bytes(payload[_ENTRY.size :]), index, term))
    elif kind == META:
        result.term, result.voted_for = msgpack.unpackb(payload)
    elif kind == COMMIT:
        result.commit = max(result.commit, _U64.unpack(payload)[0])
    elif kind == CUT:
        index, prev_term = _ENTRY.unpack(payload)
        keep = index - entries[0].index
        if keep < 1:  # the cut entries were in a segment that is gone since; a snapshot covers them (see _check)
            result.entries = [Entry(b"\x01", index - 1, prev_term)]
        else:
            del entries[keep:]
    elif kind == SNAP:
        result.snapshot = Snapshot.unpack(msgpack.unpackb(payload))
    elif kind == RESET:
        result.snapshot = Snapshot.unpack(msgpack.unpackb(payload))
        result.entries = [Entry(b"\x01", result.snapshot.index, result.snapshot.term)]
        result.commit = max(result.commit, result.snapshot.index)
    elif kind == REMOVED:
        result.removed = True


def _check(result: Recovered) -> None:
    base = result.entries[0].index
    if base > 1 and (result.snapshot is None or result.snapshot.index < base):
        raise JournalError(
            f"the journal starts after entry {base} but no snapshot covers what was before; wipe this server and join it again"
        )
    result.commit = max(1, min(result.commit, result.entries[-1].index))
    if result.snapshot is not None:
        result.commit = max(result.commit, min(result.snapshot.index, result.entries[-1].index))
