# SPDX-License-Identifier: Apache-2.0
"""Reads a write-ahead log back after a stop or a crash: a torn tail is cut, anything else that is wrong refuses to start.

A refusal (JournalError) names the file, the offset and what to do (B12: stock pysyncobj started with whatever it found).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgpack

from holdfast.consensus.ports import Disk
from holdfast.consensus.types import Entry, JournalError, Recovered, Snapshot
from holdfast.consensus.wal import (
    COMMIT,
    CUT,
    ENTRY,
    ENTRY_HEAD,
    FLUSH,
    FORMAT,
    HEAD,
    KINDS,
    LEADER_COMMIT,
    MAGIC,
    META,
    RECORD,
    REMOVED,
    RESET,
    SNAP,
    U64,
    Head,
    Segment,
    Wal,
    segment_name,
)

_SEGMENT = re.compile(r"wal-[0-9]{16}\.seg")


@dataclass(slots=True)
class _Scan:
    """State of a recovery scan over all segments."""

    result: Recovered
    segments: list[Segment] = field(default_factory=list)
    last_flush: int = 0  # where the last flush of the last segment begins; 0: it has none


def recover(disk: Disk, segment_size: int) -> tuple[Wal, Recovered]:
    """Read the log back. A torn tail is cut; anything else that is wrong raises JournalError."""
    names = sorted(name for name in disk.list() if name.startswith("wal-"))
    for name in names:
        if not _SEGMENT.fullmatch(name):
            raise JournalError(
                f"{name} is not a journal file, but its name begins like one: move it out of the directory"
            )
    scan = _Scan(Recovered([]))
    for name in list(names):
        try:
            data = disk.read(name)
        except OSError as error:
            raise JournalError(
                f"{name} cannot be read: {error.strerror or error}; repair the disk, or wipe this server and join it again"
            ) from None
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
    _check(result, names[0])
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
        result.leader_commit,
    )
    _settle_tail(disk, scan.segments[-1], scan.last_flush)
    return Wal(disk, head, scan.segments, segment_size), result


def _settle_tail(disk: Disk, segment: Segment, last_flush: int) -> None:
    """Make durable what was read, before anybody acts on it.

    A process that died between write and fdatasync, or whose fdatasync failed, leaves its last flush in the page cache only. It is
    written again, for after a failure the kernel takes its pages for clean, and synced. What a torn flush (or an earlier use of
    the file) left behind the end is zeroed: it must never pass for a record later.
    """
    name = segment_name(segment.sequence)
    disk.write(name, last_flush, disk.read(name, last_flush, segment.end - last_flush))
    if any(disk.read(name, segment.end)):
        disk.write(name, segment.end, bytes(segment.size - segment.end))
    disk.sync(name)
    disk.sync_dir()


def _has_head(name: str, data: bytes) -> bool:
    sequence = int(name[4:-4])
    first = next(_records(sequence, data), None)
    return first is not None and first[1] == HEAD


def _records(sequence: int, data: bytes) -> Iterator[tuple[int, int, memoryview, int]]:
    """(offset, type, payload, end) of every good record from the start; stops at the first that is not."""
    view = memoryview(data)
    offset = 0
    while offset + RECORD.size <= len(data):
        length, crc, kind = RECORD.unpack_from(data, offset)
        end = offset + RECORD.size + length
        if kind not in KINDS or end > len(data):
            return
        payload = view[offset + RECORD.size : end]
        if zlib.crc32(payload, zlib.crc32(bytes([kind]), sequence & 0xFFFFFFFF)) != crc:
            return
        yield offset, kind, payload, end
        offset = end


def _scan_segment(scan: _Scan, name: str, data: bytes, last: bool) -> None:
    sequence = int(name[4:-4])
    if scan.segments and sequence != scan.segments[-1].sequence + 1:
        missing = segment_name(scan.segments[-1].sequence + 1)
        raise JournalError(
            f"{missing} is missing, the journal goes on at offset 0 of {name}: a segment before it is missing; restore it, "
            "or wipe this server and join it again"
        )
    end, prev_index = 0, 1
    scan.last_flush = 0
    for offset, kind, payload, after in _records(sequence, data):
        try:
            if kind == HEAD:
                if offset:
                    break
                prev_index = _on_head(scan, name, payload)
            elif kind == FLUSH:
                scan.last_flush = offset
            else:
                _apply(scan.result, kind, payload)
        except (ValueError, TypeError, struct.error, msgpack.UnpackException) as error:
            raise JournalError(f"{name}: offset {offset}: {error}; wipe this server and join it again") from None
        end = after
    if end == 0:
        raise JournalError(
            f"{name}: offset 0: no readable header; wipe this server and join it again, or restore the file"
        )
    damaged = _durable_beyond(sequence, data, end)
    if damaged is not None:
        raise JournalError(
            f"{name}: offset {end} is damaged but was durable up to offset {damaged}: the disk has lost data; "
            "wipe this server and join it again"
        )
    scan.segments.append(Segment(sequence, prev_index, end, len(data)))


def _durable_beyond(sequence: int, data: bytes, end: int) -> int | None:
    """The durable offset that a FLUSH record after `end` names, if it lies beyond `end`: then `end` is damage, not a tear."""
    at = data.find(MAGIC, end)
    while at >= 0:
        start = at - RECORD.size
        if start >= end:
            first = next(_records(sequence, data[start : at + len(MAGIC) + U64.size]), None)
            if first is not None and first[1] == FLUSH:
                durable: int = U64.unpack_from(data, at + len(MAGIC))[0]
                if durable > end:
                    return durable
        at = data.find(MAGIC, at + 1)
    return None


def _on_head(scan: _Scan, name: str, payload: memoryview) -> int:
    fields: list[Any] = msgpack.unpackb(payload)
    if fields[0] > FORMAT:
        raise JournalError(f"{name}: offset 0: written by a newer version (format {fields[0]}): install that version")
    _, sequence, cluster_id, node_id, prev_index, prev_term, term, voted, commit, snapshot, removed, leader_commit = (
        fields
    )
    if segment_name(sequence) != name:
        raise JournalError(
            f"{name}: offset 0 says it is {segment_name(sequence)}: the files were mixed up; restore them, "
            "or wipe this server and join it again"
        )
    result = scan.result
    if not result.entries:
        result.entries.append(Entry(b"\x01", prev_index, prev_term))
        result.cluster_id, result.node_id = cluster_id, node_id
    elif (cluster_id, node_id) != (result.cluster_id, result.node_id):
        raise JournalError(
            f"{name}: offset 0: it belongs to another server or cluster ({node_id} of {cluster_id}, the segments before it to "
            f"{result.node_id} of {result.cluster_id}); restore the right files, or wipe this server and join it again"
        )
    elif result.entries[-1].index != prev_index or result.entries[-1].term != prev_term:
        raise JournalError(
            f"{name}: offset 0 continues after entry {prev_index}, but {segment_name(scan.segments[-1].sequence)} ends with "
            f"entry {result.entries[-1].index} at offset {scan.segments[-1].end}: entries are lost; wipe this server and join "
            "it again"
        )
    result.term, result.voted_for, result.commit = term, voted, max(commit, result.commit)
    result.snapshot = Snapshot.unpack(snapshot) if snapshot else None
    result.removed, result.leader_commit = removed, leader_commit
    return int(prev_index)


def _apply(result: Recovered, kind: int, payload: memoryview) -> None:
    entries = result.entries
    if kind == ENTRY:
        index, term = ENTRY_HEAD.unpack_from(payload)
        if index != entries[-1].index + 1:
            raise ValueError(f"entry {index} follows entry {entries[-1].index}")
        entries.append(Entry(bytes(payload[ENTRY_HEAD.size :]), index, term))
    elif kind == META:
        result.term, result.voted_for = msgpack.unpackb(payload)
    elif kind == COMMIT:
        result.commit = max(result.commit, U64.unpack(payload)[0])
    elif kind == LEADER_COMMIT:
        result.leader_commit = U64.unpack(payload)[0]
    elif kind == CUT:
        index, prev_term = ENTRY_HEAD.unpack(payload)
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


def _check(result: Recovered, first: str) -> None:
    base = result.entries[0].index
    if base > 1 and (result.snapshot is None or result.snapshot.index < base):
        raise JournalError(
            f"{first}: offset 0: the journal starts after entry {base} but no snapshot covers what was before; wipe this server "
            "and join it again"
        )
    result.commit = max(1, min(result.commit, result.entries[-1].index))
    if result.snapshot is not None:
        result.commit = max(result.commit, min(result.snapshot.index, result.entries[-1].index))
